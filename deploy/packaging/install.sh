#!/bin/sh
# Installs one role of Slipway on a Linux machine with systemd. May be executed again at any time: what is
# as it should be stays, settings that exist are never touched.
#
#   sh install.sh --role agent|dispatcher|cache --binary FILE --sha256 HEX [--root DIR] [--no-start]
#
# --binary    the file to be installed; it is not installed unless its digest is the one that is given
# --root      installs below this folder without users and units being started (for images and tests)
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
role='' binary='' digest='' root='' start=yes

fail() { printf 'install: %s\n' "$*" >&2; exit 1; }
say() { printf 'install: %s\n' "$*" >&2; }

while [ $# -gt 0 ]; do
    case $1 in
    --role|--binary|--sha256|--root)
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
        --role) role=$2 ;;
        --binary) binary=$2 ;;
        --sha256) digest=$2 ;;
        --root) root=$2 start=no ;;
        esac
        shift 2 ;;
    --no-start) start=no; shift ;;
    *) fail "unknown option $1; see the head of this file" ;;
    esac
done

case $role in
agent|dispatcher|cache) ;;
*) fail "--role is agent, dispatcher or cache" ;;
esac
[ -f "$binary" ] || fail "--binary names no file"
printf '%s' "$digest" | grep -Eq '^[0-9a-f]{64}$' || fail "--sha256 is 64 lower-case hex digits"
found=$(sha256sum "$binary" | cut -d ' ' -f 1)
[ "$found" = "$digest" ] || fail "$binary has the digest $found, not $digest: nothing was installed"
if [ -z "$root" ]; then
    [ "$(id -u)" = 0 ] || fail "only root may install; use sudo"
fi

# Beside the old one, then renamed: a running process keeps its file, and no half of one is ever started.
# Looked at again: what is renamed is what was checked.
install -d -m 0755 "$root/usr/bin"
install -m 0755 "$binary" "$root/usr/bin/.slipway.new"
copied=$(sha256sum "$root/usr/bin/.slipway.new" | cut -d ' ' -f 1)
[ "$copied" = "$digest" ] || { rm -f "$root/usr/bin/.slipway.new"; fail "the file changed while it was copied"; }
mv -f "$root/usr/bin/.slipway.new" "$root/usr/bin/slipway"

if [ -z "$root" ] && [ "$role" = dispatcher ] && ! id slipway >/dev/null 2>&1; then
    useradd --system --home-dir /var/lib/slipway --shell /usr/sbin/nologin slipway
fi

install -d -m 0755 "$root/etc/slipway"
settings() {
    [ -e "$1" ] && return 0
    umask 077
    cat >"$1.new"
    mv "$1.new" "$1"
    say "wrote $1: look at it"
}
unit() {
    install -d -m 0755 "$root/etc/systemd/system"
    install -m 0644 "$here/systemd/slipway-$1.service" "$root/etc/systemd/system/slipway-$1.service"
}

case $role in
dispatcher)
    settings "$root/etc/slipway/dispatcher.toml" <<'TOML'
data_dir = "/var/lib/slipway"
TOML
    [ -n "$root" ] || chown slipway:slipway /etc/slipway/dispatcher.toml
    units=dispatcher ;;
agent|cache)
    settings "$root/etc/slipway/cache.toml" <<'TOML'
directory = "/var/lib/slipway-cache/content"
socket = "/var/lib/slipway-cache/cache.sock"
TOML
    units=cache
    if [ "$role" = agent ]; then
        settings "$root/etc/slipway/agent.toml" <<'TOML'
data_dir = "/var/lib/slipway-agent"
cache = "/var/lib/slipway-cache/cache.sock"
# Where the dispatcher is, and the token of `slipway agents join-token`, redeemed once.
dispatcher = "https://127.0.0.1:7702"
join_token = ""
TOML
        units='cache agent'
    fi ;;
esac
for name in $units; do unit "$name"; done

if [ "$start" = yes ]; then
    systemctl daemon-reload
    for name in $units; do
        systemctl enable "slipway-$name.service"
        systemctl restart "slipway-$name.service"
    done
fi
say "installed: $units"
