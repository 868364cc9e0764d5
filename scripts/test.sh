#!/usr/bin/env bash
# Runs the unit tests and the tests against the kernel, and sums both up in one last line: "N passed, N failed".
#
#   CNI_BOX_BIN        the binary under test: what users get, not cargo's debug build
#   CNI_REFERENCE_DIR  the reference plugins to compare with
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Each test makes namespaces of its own. They still start from a private one: a test that forgets must not find the
# machine's network. Without root, a user namespace lends the rights.
enter_private() {
    local how=(unshare --net --mount --propagation private)
    if ! is_root; then how+=(--user --map-root-user); fi
    if ! "${how[@]}" true 2>/dev/null; then
        die "the tests make network namespaces: run them as root, or where \`${how[*]}\` works" \
            "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
    fi
    exec "${how[@]}" env CNI_BOX_TEST_INSIDE=1 "$0"
}

# Both must be built before the network is gone.
prepare() { cargo test --locked --no-run --lib --test main; }

# The counts come from cargo's own closing lines; a run that has none broke before or while it tested.
run() {
    local log=$1
    shift
    if ! cargo test --locked --offline --no-fail-fast "$@" 2>&1 | tee "$log"; then failed_runs=$((failed_runs + 1)); fi
    if ! grep -q '^test result:' "$log"; then
        say "cargo test $* ended without a result"
        broken_runs=$((broken_runs + 1))
    fi
}

# sum passed LOG...
sum() {
    local word=$1
    shift
    cat "$@" | sed -n "s/^test result:.* \([0-9]*\) $word;.*/\1/p" | awk '{ n += $1 } END { print n + 0 }'
}

if [ -z "${CNI_BOX_TEST_INSIDE:-}" ]; then
    [ -x "${CNI_BOX_BIN:?names the binary under test}" ] || die "no $CNI_BOX_BIN: run make first"
    prepare
    enter_private
fi

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed_runs=0
broken_runs=0
run "$logs/lib" --lib
run "$logs/main" --test main

passed=$(sum passed "$logs"/*)
failed=$(($(sum failed "$logs"/*) + broken_runs))
if [ "$passed" -eq 0 ]; then say "no test ran to its end"; fi
echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$failed_runs" -eq 0 ] && [ "$passed" -gt 0 ]
