#!/usr/bin/env bash
# A redis container's network by hand, as the walk-throughs on the web type it (plugins v0.9.1, v1.3.0): each step is
# shown, done and checked. In namespaces of its own: the machine's network, /etc, /opt and /var/lib stay as they are.
#
#   CNI_BOX_BIN  the binary to install
#   PLUGINS      instead: a directory of other plugins, with a cnitool, to follow the same steps with
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

if [ -z "${CNI_BOX_PRIVATE:-}" ]; then exec scripts/private.sh "$PWD/scripts/walkthrough.sh"; fi

export CNI_BOX_BIN=${CNI_BOX_BIN:-$PWD/target/cni-box}
export CNI_PATH=/opt/cni/bin
export PATH=$PATH:/opt/cni/bin:/usr/sbin:/sbin
unset CNI_IFNAME CNI_ARGS CAP_ARGS NETCONFPATH
WORK=/run/walkthrough
NETNS=/var/run/netns/redisnet
done_steps=0
redis=""

# --- showing and checking ---

note() { printf '\n# %s\n' "$*"; }

failed() {
    printf '  FAILED: %s\n\nFAILED after %d steps\n' "$1" "$done_steps"
    exit 1
}

ok() {
    done_steps=$((done_steps + 1))
    printf '  ok%s\n' "${1:+: $1}"
}

# step COMMAND [PATTERN...]: types the command; all of the patterns (extended regular expressions) must be in its answer.
step() {
    local command=$1 pattern status=0
    shift
    printf '$ %s\n' "$command"
    bash -c "$command" >"$WORK/answer" 2>&1 </dev/null || status=$?
    sed 's/^/  /' "$WORK/answer"
    # JSON results end without a newline.
    if [ -s "$WORK/answer" ] && [ -n "$(tail -c1 "$WORK/answer")" ]; then echo; fi
    if [ "$status" -ne 0 ]; then failed "exit status $status"; fi
    for pattern; do
        if ! grep -Eq -- "$pattern" "$WORK/answer"; then failed "no \"$pattern\" in the answer"; fi
    done
    ok
}

# Until it is so, and not for a time; the limit is for what never comes.
wait_until() {
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.05
    done
    failed "still not so after 10 s: $*"
}

# Nothing on the host may be left but the bridge, which stays for the next container.
holds_nothing() {
    local what=$1 command=$2 found
    printf '$ %s\n' "$command"
    found=$(bash -c "$command" 2>&1 || true)
    if [ -n "$found" ]; then failed "$what left behind: $found"; fi
    ok "no $what left"
}

stop_redis() {
    if [ -z "$redis" ]; then return; fi
    kill "$redis" 2>/dev/null || true
    wait "$redis" 2>/dev/null || true
    redis=""
}

# --- the steps ---

install_plugins() {
    note "the plugins"
    step "mkdir -p /opt/cni/bin"
    if [ -n "${PLUGINS:-}" ]; then
        step "install -t /opt/cni/bin $PLUGINS/*"
    else
        step "$CNI_BOX_BIN --install /opt/cni/bin"
    fi
    step "ls /opt/cni/bin" '^bridge$' '^host-local$' '^cnitool$'
}

write_network() {
    note "the network"
    mkdir -p /etc/cni/net.d
    cat >"$WORK/redisnet.conf" <<'CONF'
{
    "cniVersion": "0.4.0",
    "name": "redisnet",
    "type": "bridge",
    "bridge": "cni0",
    "isDefaultGateway": true,
    "forceAddress": false,
    "ipMasq": true,
    "hairpinMode": true,
    "ipam": {
        "type": "host-local",
        "subnet": "10.88.0.0/16"
    }
}
CONF
    step "cp $WORK/redisnet.conf /etc/cni/net.d/redisnet.conf"
    step "cat /etc/cni/net.d/redisnet.conf" '"redisnet"'
}

connect() {
    note "a namespace, and into the network with it"
    step "ip netns add redisnet"
    step "cnitool add redisnet $NETNS" '"cniVersion": *"0\.4\.0"' '"10\.88\.0\.2/16"' '"gateway": *"10\.88\.0\.1"'
    step "cnitool check redisnet $NETNS"
    wait_until bash -c "ip -n redisnet link show dev eth0 | grep -q 'state UP'"
    step "ip -n redisnet addr" 'eth0.*state UP' 'inet 10\.88\.0\.2/16'
    step "ip -n redisnet route" 'default via 10\.88\.0\.1 dev eth0'
    step "ip addr show dev cni0" 'inet 10\.88\.0\.1/16'
    step "iptables-save -t nat" '-s 10\.88\.0\.2/32 .*-j CNI-' '-j MASQUERADE'
    step "ping -c 1 -W 5 10.88.0.2" ' 0% packet loss'
    step "ip netns exec redisnet ping -c 1 -W 5 10.88.0.1" ' 0% packet loss'
}

use_redis() {
    note "a real redis-server in it, and its clients out here"
    local command="ip netns exec redisnet redis-server --bind 0.0.0.0 --protected-mode no --save '' --dir $WORK"
    printf '$ %s &\n' "$command"
    # `ip netns exec` and bash replace themselves, so this is redis-server's own process id.
    bash -c "exec $command" >"$WORK/redis.log" 2>&1 </dev/null &
    redis=$!
    wait_until redis-cli -h 10.88.0.2 ping
    ok
    step "redis-cli -h 10.88.0.2 ping" '^PONG$'
    step "redis-cli -h 10.88.0.2 set greeting hello" '^OK$'
    step "redis-cli -h 10.88.0.2 get greeting" '^hello$'
    stop_redis
}

disconnect() {
    note "out again"
    step "cnitool check redisnet $NETNS"
    step "cnitool del redisnet $NETNS"
    step "cnitool del redisnet $NETNS # again: nothing to do is no error"
    step "ip netns del redisnet"
}

is_as_before() {
    note "the host is as before"
    holds_nothing veth "ip -o link show type veth"
    holds_nothing reservation "ls /var/lib/cni/networks/redisnet 2>/dev/null | grep -E '^[0-9]+\.'"
    holds_nothing "cached result" "ls -A /var/lib/cni/results 2>/dev/null"
    holds_nothing "masquerade chain" "iptables-save -t nat | grep CNI-"
}

mkdir -p "$WORK"
trap stop_redis EXIT
install_plugins
write_network
connect
use_redis
disconnect
is_as_before
printf '\nok: %d steps, all as the walk-through says\n' "$done_steps"
