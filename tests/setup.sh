#!/bin/sh
# Installs what the tests and the demo need, or names what is missing. Idempotent, and quick when
# everything is there. Reads no standard input. Progress goes to standard error; the last line on
# standard output is `SLIPWAY_REQUIRE=…`, the list of what the tests may rely on here.
set -u

here=$(cd "$(dirname "$0")" && pwd)
log=${SLIPWAY_SETUP_LOG:-/tmp/slipway-setup.log}
export DEBIAN_FRONTEND=noninteractive
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'setup: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
may_install() { [ "$(id -u)" = 0 ] && have apt-get; }

postgres_there() {
    have initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

# An engine that gives reproducible images needs Docker 26 with the containerd image store. Debian 12
# has 20.10; Debian 13's package also installs on 12. It is added as a second source that is pinned
# low, so that nothing else comes from it: containerd, runc and tini stay this release's.
add_docker_source() {
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    [ "$codename" = bookworm ] || return 0
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        sed -n -E 's/^(URIs:|deb( \[[^]]*\])?)[[:space:]]+([a-z+]+:\/\/[^ ]*\/debian)\/?([[:space:]].*)?$/\3/p' |
        head -n 1)
    [ -n "$mirror" ] || return 0
    signed=''
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -r "$keyring" ] && signed="Signed-By: $keyring"
    printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\n%s\n' "$mirror" "$signed" \
        >/etc/apt/sources.list.d/slipway-docker.sources
    cat >/etc/apt/preferences.d/slipway-docker <<'PIN'
Package: *
Pin: release n=trixie
Pin-Priority: 50

Package: docker.io docker-cli docker-buildx
Pin: release n=trixie
Pin-Priority: 600
PIN
}

drop_docker_source() {
    rm -f /etc/apt/sources.list.d/slipway-docker.sources /etc/apt/preferences.d/slipway-docker
}

apt_install() {
    apt-get install -y --no-install-recommends "$@" </dev/null >>"$log" 2>&1
}

install_missing() {
    wanted=''
    have git || wanted="$wanted git"
    have curl || wanted="$wanted curl"
    have busybox || wanted="$wanted busybox-static"
    have nft || wanted="$wanted nftables"
    have ccache || wanted="$wanted ccache"
    have gcc || wanted="$wanted gcc libc6-dev"
    have docker-registry || wanted="$wanted docker-registry"
    have prometheus || wanted="$wanted prometheus"
    have mmdebstrap || have debootstrap || wanted="$wanted mmdebstrap debootstrap"
    postgres_there || wanted="$wanted postgresql"
    if [ -z "$wanted" ] && have dockerd; then
        return 0
    fi
    if ! may_install; then
        return 0
    fi
    say "installing:$wanted$(have dockerd || printf ' docker') (details: $log)"
    have dockerd || add_docker_source
    apt-get update </dev/null >>"$log" 2>&1 || say "apt-get update failed, trying with what is known"
    for package in $wanted; do
        apt_install "$package" || say "could not install $package"
    done
    have dockerd && return 0
    if ! apt_install docker.io docker-cli docker-buildx; then
        say "Docker 26 cannot be installed here, falling back to this release's own"
        drop_docker_source
        apt-get update </dev/null >>"$log" 2>&1
        apt_install docker.io || say "could not install docker.io"
    fi
}

write_daemon_settings() {
    [ "$(id -u)" = 0 ] && have dockerd || return 0
    [ -e /etc/docker/daemon.json ] && return 0
    major=$(dockerd --version 2>/dev/null | sed -n -E 's/.*version ([0-9]+)\..*/\1/p')
    [ "${major:-0}" -ge 24 ] || return 0
    mkdir -p /etc/docker
    cat >/etc/docker/daemon.json <<'JSON'
{
  "features": { "containerd-snapshotter": true },
  "live-restore": true
}
JSON
}

docker_answers() { docker info >/dev/null 2>&1; }

start_docker() {
    docker_answers && return 0
    [ "$(id -u)" = 0 ] && have dockerd || return 1
    if [ -d /run/systemd/system ] && have systemctl; then
        systemctl start docker >>"$log" 2>&1
    elif ! pgrep -x dockerd >/dev/null 2>&1; then
        rm -f /var/run/docker.pid
        setsid dockerd </dev/null >>/var/log/slipway-dockerd.log 2>&1 &
    fi
    waited=0
    while [ "$waited" -lt 60 ]; do
        docker_answers && return 0
        sleep 1
        waited=$((waited + 1))
    done
    say "dockerd does not answer (see /var/log/slipway-dockerd.log)"
    return 1
}

: >"$log" 2>/dev/null || log=/dev/null
install_missing
write_daemon_settings

available=''
add() { available="${available:+$available,}$1"; }

if start_docker; then
    if "$here/images.sh" "${SLIPWAY_IMAGES:-all}" >&2; then
        add docker
    else
        say "the local base images could not be made: tests with containers are skipped"
    fi
else
    say "missing: a Docker engine (package docker.io; start it, and let this user reach its socket)"
fi
if postgres_there; then add postgres; else say "missing: PostgreSQL's initdb (package postgresql)"; fi
if have docker-registry; then add registry; else say "missing: docker-registry (package docker-registry)"; fi
if have prometheus; then add prometheus; else say "missing: prometheus (package prometheus)"; fi
have git || say "missing: git (package git)"

printf 'SLIPWAY_REQUIRE=%s\n' "$available"
