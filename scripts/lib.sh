# shellcheck shell=bash
# What every script here needs; to be sourced.

say() { printf '%s\n' "$*" >&2; }

# For what must not be overlooked in a long log.
shout() {
    printf '\n' >&2
    printf '*** %s\n' "$@" >&2
    printf '\n' >&2
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# Installs Debian packages without letting any of them start a service: redis-server's postinst would open port
# 6379 on the machine. policy-rc.d is Debian's own switch for that; one that is already there is left as it is.
apt_install() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # Without a terminal, apt and debconf neither ask nor draw.
    {
        apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
                -o Dpkg::Use-Pty=0 "$@" </dev/null
    } >&2
)

# The reference plugins of today, 1.9.1, unless CNI_REFERENCE_NEW says where they are: Debian has them in sid.
fetch_new_reference() {
    if [ -n "${CNI_REFERENCE_NEW:-}" ]; then return; fi
    export CNI_REFERENCE_NEW=${OUT:-$PWD/target}/reference-new/usr/lib/cni
    scripts/debian-fetch.sh sid containernetworking-plugins "${CNI_REFERENCE_NEW%/usr/lib/cni}"
}

# Builds the previous release of cni-box, unless CNI_BOX_PREVIOUS names its directory. Exit status
# 3: this copy of the sources has too little history.
build_previous_release() {
    if [ -n "${CNI_BOX_PREVIOUS:-}" ]; then return; fi
    export CNI_BOX_PREVIOUS=${OUT:-$PWD/target}/previous
    scripts/previous-release.sh
}

can_apt() { is_root && have apt-get; }
