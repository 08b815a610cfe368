#!/bin/sh
# Gets the control plane that `make kubernetes` tests against, without pulling an image: etcd of this
# distribution, kube-apiserver, kube-controller-manager and kubectl built from the published Go modules, and the
# Gateway API's own definition of an HTTPRoute. Helm's engine renders the shipped chart. The first build takes some minutes; what was built is kept
# outside the clone, so the next call is instant. Progress goes to standard error; the last line on standard
# output is `SLIPWAY_CONTROL_PLANE=…`, the folder. Fails when something is missing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
log=${SLIPWAY_SETUP_LOG:-/tmp/slipway-setup-kubernetes.log}
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
export PATH DEBIAN_FRONTEND=noninteractive

say() { printf 'kubernetes: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
fail() {
    say "missing: $*"
    exit 1
}

version=$(sed -n 's/^[[:space:]]*k8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$here/control-plane/go.mod")
kept=${SLIPWAY_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slipway-test}/control-plane-$version

if ! have etcd && [ "$(id -u)" = 0 ] && have apt-get; then
    say "installing etcd-server (details: $log)"
    apt-get install -y --no-install-recommends etcd-server </dev/null >>"$log" 2>&1 ||
        { apt-get update </dev/null && apt-get install -y --no-install-recommends etcd-server </dev/null; } \
            >>"$log" 2>&1 || true
fi
have etcd || fail "etcd (package etcd-server)"

whole() {
    for program in kube-apiserver kube-controller-manager kubectl chart; do
        [ -x "$kept/$program" ] || return 1
    done
    [ -s "$kept/httproutes.yaml" ]
}

if ! whole; then
    have go || fail "Go (1.24 or newer), which builds the control plane"
    # Whole or not there: what is half built is in another folder.
    building=$kept.$$
    mkdir -p "$building"
    trap 'rm -rf "$building"' EXIT
    say "building kube-apiserver, kube-controller-manager and kubectl $version; this takes some minutes"
    (
        cd "$here/control-plane"
        GOFLAGS="${GOFLAGS:--p=1}" CGO_ENABLED=0 nice go build -trimpath \
            -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" \
            -o "$building/" ./kube-apiserver ./kube-controller-manager ./kubectl
        cd "$here/chart"
        CGO_ENABLED=0 nice go build -trimpath -ldflags "-s -w" -o "$building/chart" .
        cd "$here/gateway-api"
        go mod download sigs.k8s.io/gateway-api
        gateway=$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)
        cp "$gateway/config/crd/standard/gateway.networking.k8s.io_httproutes.yaml" "$building/httproutes.yaml"
    ) >&2 || fail "the control plane: its build failed"
    mkdir -p "$kept"
    mv -f "$building"/* "$kept/"
fi

printf 'SLIPWAY_CONTROL_PLANE=%s\n' "$kept"
