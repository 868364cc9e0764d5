#!/usr/bin/env bash
# Puts container runtimes from Debian below $OUT/runtimes, for the tests below tests/runtimes. Nothing is installed. What is
# there stays: only the first run needs the network, and `make clean` makes the next one first. Needs root, as the tests do.
#
#   $OUT/runtimes/root         a file system with containerd 1.6, runc, podman, redis, ip and busybox, and without anything
#                              that could do a CNI plugin's work
#   $OUT/runtimes/containerd2  another containerd: 2.1, of Debian sid
#   $OUT/runtimes/images.tar   images for them (runtimes-images.sh)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

RUNTIMES=${OUT:-$PWD/target}/runtimes
NEW=$RUNTIMES/new

packages() { echo containerd runc podman busybox-static dash iproute2 redis-server; }

# Of what these depend on: programs that a plugin might call, the Go plugins, and what only maintainers' scripts call.
unwanted() {
    case $1 in
    containernetworking-plugins | netavark | aardvark-dns | iptables | nftables | conntrack) ;;
    perl* | libperl* | *-perl | gnupg* | gpg* | dirmngr | pinentry* | debconf | dpkg | adduser | passwd | usrmerge) ;;
    *) return 1 ;;
    esac
}

# With everything they depend on, however much of it the machine has: apt is told that it has nothing.
download() {
    mkdir -p "$NEW/archives/partial"
    : >"$NEW/status"
    apt-get update -qq >&2
    # shellcheck disable=SC2046 # a list of words
    apt-get install --download-only -y -qq --no-install-recommends \
        -o Dir::State::status="$NEW/status" -o Dir::Cache::archives="$NEW/archives" -o pkgCacheGen::Essential=none \
        -o APT::Sandbox::User=root -o Debug::NoLocking=1 $(packages) </dev/null >&2
}

# The tree of a Debian of today. dpkg would replace the links in it by folders.
unpack() {
    local archive name
    mkdir -p "$NEW"/root/usr/{bin,sbin,lib,lib64}
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$NEW/root/"
    for archive in "$NEW"/archives/*.deb; do
        name=${archive##*/}
        if unwanted "${name%%_*}"; then continue; fi
        dpkg-deb --fsys-tarfile "$archive" | tar -x --keep-directory-symlink -C "$NEW/root" \
            --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*'
    done
}

# busybox stands in only for what is not there; a busybox that is called itself would prefer its own.
add_busybox() {
    local applet
    for applet in $("$NEW/root/usr/bin/busybox" --list); do
        if [ ! -e "$NEW/root/usr/sbin/$applet" ] && [ ! -e "$NEW/root/usr/bin/$applet" ]; then
            ln -s busybox "$NEW/root/usr/bin/$applet"
        fi
    done
}

# Where the tests mount or write something, and what maintainers' scripts would have made.
add_rest() {
    mkdir -p "$NEW"/root/{dev,old,opt,proc,root,run,sys,tmp} "$NEW"/root/usr/local/bin "$NEW"/root/var/{lib,log,tmp}
    ln -s /run "$NEW/root/var/run"
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$NEW/root/etc/passwd"
    printf 'root:x:0:\n' >"$NEW/root/etc/group"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$NEW/root/etc/hosts"
    : >"$NEW/root/etc/resolv.conf"
}

if ! is_root; then die "container runtimes need root: run make test-runtimes as root"; fi
if ! have apt-get || ! have dpkg-deb; then die "the runtimes are Debian packages: no apt here to fetch them with"; fi
mkdir -p "$RUNTIMES"
if [ ! -d "$RUNTIMES/root" ]; then
    say "downloading container runtimes"
    rm -rf "$NEW"
    download
    unpack
    add_busybox
    add_rest
    # By rename, so that an interrupted download is not taken for a whole one.
    mv "$NEW/root" "$RUNTIMES/root"
    rm -rf "$NEW"
fi
scripts/debian-fetch.sh sid containerd "$RUNTIMES/containerd2"
scripts/runtimes-images.sh
