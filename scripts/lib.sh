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
apt_install() {
    local policy=/usr/sbin/policy-rc.d ours="" status=0
    if [ ! -e "$policy" ]; then
        ours=1
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    {
        apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null
    } >&2 || status=$?
    if [ -n "$ours" ]; then rm -f "$policy"; fi
    return "$status"
}

can_apt() { is_root && have apt-get; }
