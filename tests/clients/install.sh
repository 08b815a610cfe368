#!/bin/sh
# Installs the build tools that `make cache-clients` drives, and fails when one is missing afterwards. Reads
# no standard input.
set -eu
export DEBIAN_FRONTEND=noninteractive
log=${SLIPWAY_SETUP_LOG:-/tmp/slipway-clients.log}
say() { printf 'clients: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

wanted=''
have ccache || wanted="$wanted ccache"
have gcc || wanted="$wanted gcc libc6-dev"
have git || wanted="$wanted git"
have gradle || wanted="$wanted gradle"
have bazel || wanted="$wanted bazel-bootstrap"
have npm || wanted="$wanted nodejs npm"
if [ -n "$wanted" ]; then
    say "installing:$wanted (details: $log)"
    apt-get update </dev/null >>"$log" 2>&1
    for package in $wanted; do
        apt-get install -y --no-install-recommends "$package" </dev/null >>"$log" 2>&1 || say "could not install $package"
    done
fi
have turbo || { say 'installing turbo'; npm install --global --no-fund --no-audit turbo@2 </dev/null >>"$log" 2>&1 || true; }
have nx || { say 'installing nx'; npm install --global --no-fund --no-audit nx@24 </dev/null >>"$log" 2>&1 || true; }
have sccache || {
    say 'installing sccache (from source: takes minutes)'
    cargo install --quiet --locked --no-default-features --features webdav --root /usr/local sccache </dev/null >>"$log" 2>&1 || true
}
missing=''
for tool in ccache sccache turbo nx bazel gradle; do have "$tool" || missing="$missing $tool"; done
[ -z "$missing" ] || { say "missing:$missing (see $log)"; exit 1; }
