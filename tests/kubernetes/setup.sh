#!/bin/sh
# Gets the control plane that `make kubernetes` tests against, without pulling an image: etcd of this
# distribution, kube-apiserver, kube-controller-manager and kubectl built from the published Go modules, and the
# Gateway API's own definition of an HTTPRoute. Helm's engine renders the shipped chart, and helm itself those of
# services. The first build takes some minutes; what was built is kept outside the clone, so the next call is instant. Progress goes to standard error; the last line on standard
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

# Whole or not there: what is half built is in another folder, and only what is missing is built.
building=$kept.$$
trap 'rm -rf "$building"' EXIT
mkdir -p "$kept" "$building"
missing() {
    for program in "$@"; do
        [ -s "$kept/$program" ] || return 0
    done
    return 1
}
need() {
    have go || fail "Go (1.24 or newer), which builds the control plane"
    say "building $*; this takes some minutes"
}

if missing kube-apiserver kube-controller-manager kubectl; then
    need "kube-apiserver, kube-controller-manager and kubectl $version"
    (
        cd "$here/control-plane"
        GOFLAGS="${GOFLAGS:--p=1}" CGO_ENABLED=0 nice go build -trimpath \
            -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" \
            -o "$building/" ./kube-apiserver ./kube-controller-manager ./kubectl
    ) >&2 || fail "the control plane: its build failed"
fi
if missing chart helm; then
    need "helm and its engine"
    (
        cd "$here/chart"
        GOFLAGS="${GOFLAGS:--p=1}" CGO_ENABLED=0 nice go build -trimpath -ldflags "-s -w" \
            -o "$building/" . helm.sh/helm/v3/cmd/helm
    ) >&2 || fail "helm: its build failed"
fi
if missing httproutes.yaml; then
    (
        cd "$here/gateway-api"
        go mod download sigs.k8s.io/gateway-api
        gateway=$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)
        cp "$gateway/config/crd/standard/gateway.networking.k8s.io_httproutes.yaml" "$building/httproutes.yaml"
    ) >&2 || fail "the definition of an HTTPRoute"
fi
for program in "$building"/*; do
    [ ! -e "$program" ] || mv -f "$program" "$kept/"
done

printf 'SLIPWAY_CONTROL_PLANE=%s\n' "$kept"
