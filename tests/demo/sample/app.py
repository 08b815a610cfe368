"""A small shop: one page, one health check, nothing but the standard library."""
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prices import total

VERSION = "1"


def page(path):
    """The answer to a path: (status, body)."""
    if path == "/health":
        return 200, {"ok": True}
    if path == "/":
        basket = [("anchor", 2, 1250), ("rope", 1, 499)]
        return 200, {"version": VERSION, "total": total(basket)}
    return 404, {"error": "no such page"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status, body = page(self.path)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        length = int(self.headers.get("Content-Length", "0"))
        self.rfile.read(length)
        self.do_GET()

    def log_message(self, *args):
        """Quiet: the router keeps the access log."""


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8000"))
    print("listening on", port, file=sys.stderr, flush=True)
    ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
