#!/bin/sh
# Makes the local base images of the tests and the demo when they are missing, without pulling
# anything: `slipway-busybox:1` (a static busybox), `slipway-toolchain:1` (a small Debian with Python, its
# test tools, git and curl) and `slipway-compiler:1` (one with gcc and ccache). `images.sh busybox` makes
# only the first, `images.sh toolchain` the first two.
set -eu

PATH=$PATH:/usr/sbin:/sbin
what=${1:-all}
say() { printf 'images: %s\n' "$*" >&2; }
there() { docker image inspect "$1" >/dev/null 2>&1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

make_busybox() {
    there slipway-busybox:1 && return 0
    busybox=$(command -v busybox) || { say "missing: busybox (package busybox-static)"; return 1; }
    if command -v ldd >/dev/null && ldd "$busybox" >/dev/null 2>&1; then
        say "$busybox is not static (package busybox-static)"
        return 1
    fi
    say "making slipway-busybox:1"
    root=$work/busybox
    mkdir -p "$root/bin" "$root/etc" "$root/root" "$root/usr/bin"
    mkdir -m 1777 "$root/tmp"
    cp "$busybox" "$root/bin/busybox"
    chmod 0755 "$root/bin/busybox"
    for applet in $("$busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    ln -s ../../bin/env "$root/usr/bin/env"
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65532:65532:nobody:/tmp:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnobody:x:65532:\n' >"$root/etc/group"
    tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -c . |
        docker import -c 'CMD ["/bin/sh"]' -c 'ENV PATH=/bin:/usr/bin' - slipway-busybox:1 >/dev/null
}

toolchain=python3,python3-pytest,python3-pytest-cov,python3-coverage,python3-flake8,curl,git,ca-certificates

mirror() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        sed -n -E 's/^(URIs:|deb( \[[^]]*\])?)[[:space:]]+([a-z+]+:\/\/[^ ]*\/debian)\/?([[:space:]].*)?$/\3/p' |
        head -n 1
}

# make_debian <image> <packages>
make_debian() {
    there "$1" && return 0
    [ "$(id -u)" = 0 ] || { say "$1 can only be made by root"; return 1; }
    from=$(mirror)
    [ -n "$from" ] || { say "this machine has no Debian package source"; return 1; }
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-bookworm}")
    say "making $1 ($codename; takes a minute)"
    rm -rf "$work/debian" "$work/debian.tar"
    if command -v mmdebstrap >/dev/null; then
        mmdebstrap --quiet --variant=apt --include="$2" \
            --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' \
            "$codename" "$work/debian.tar" "deb $from $codename main" </dev/null >&2
    else
        debootstrap --variant=minbase --include="$2" "$codename" "$work/debian" "$from" \
            </dev/null >"$work/debootstrap.log" 2>&1 || { tail -n 5 "$work/debootstrap.log" >&2; return 1; }
        rm -rf "$work/debian/var/cache/apt/archives" "$work/debian/usr/share/man"
        tar -C "$work/debian" --numeric-owner -cf "$work/debian.tar" .
    fi
    docker import -c 'CMD ["/bin/sh"]' -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
        "$work/debian.tar" "$1" >/dev/null
}

make_busybox
[ "$what" = busybox ] && exit 0
make_debian slipway-toolchain:1 "$toolchain"
[ "$what" = toolchain ] && exit 0
make_debian slipway-compiler:1 gcc,libc6-dev,ccache
