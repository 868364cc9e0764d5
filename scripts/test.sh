#!/usr/bin/env bash
# Runs the unit tests, the tests against this machine's kernel, those against the guests' (test-vm.sh) and those with container
# runtimes (test-runtimes.sh), and sums all up in one last line: "N passed, N failed".
#
#   CNI_BOX_BIN        the binary under test: what users get, not cargo's debug build
#   CNI_REFERENCE_DIR  the reference plugins to compare with
#   CNI_REFERENCE_NEW  those of today, 1.9.1 (default: Debian sid's, which are fetched)
#   CNI_BOX_PREVIOUS   the directory of the previous release's cni-box (default: built from the history)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Each test makes namespaces of its own. They still start from a private one: a test that forgets must not find the
# machine's network. Without root, a user namespace lends the rights.
enter_private() {
    local how=(unshare --net --mount --propagation private)
    if ! is_root; then
        how+=(--user --map-root-user)
        export CNI_BOX_TEST_USER=1
    fi
    if ! "${how[@]}" true 2>/dev/null; then
        die "the tests make network namespaces: run them as root, or where \`${how[*]}\` works" \
            "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
    fi
    exec "${how[@]}" env CNI_BOX_TEST_INSIDE=1 "$0"
}

# All must be here before the network is gone. What cannot be had is told again by the tests that need it.
prepare() {
    cargo test --locked --no-run --lib --test main
    scripts/vm-fetch.sh || true
    fetch_new_reference || true
    prepare_previous_release
    if is_root; then scripts/runtimes-fetch.sh || true; fi
}

# A copy of the sources without history cannot build that release. Any other failure fails the
# tests.
prepare_previous_release() {
    local status=0
    build_previous_release || status=$?
    if [ "$status" -eq 3 ]; then export CNI_BOX_TEST_NO_PREVIOUS=1; fi
}

# run LOG COMMAND...: the counts come from the test programs' own closing lines. A run that has none, or that fails although
# none of its tests did, broke before, while or after it tested.
run() {
    local log=$1 status=0
    shift
    "$@" 2>&1 | tee "$log" || status=1
    if ! grep -q '^test result:' "$log" || [ "$status" -ne "$(($(sum failed "$log") > 0))" ]; then
        say "not a whole run: $*"
        broken_runs=$((broken_runs + 1))
    fi
}

host_tests() { cargo test --locked --offline --no-fail-fast "$@"; }

# count MODULE: how many tests there are below it
count() {
    local names
    names=$(host_tests --quiet --test main -- --list --format terse "$1::")
    grep -c ': test$' <<<"$names"
}

# None is skipped in silence: the lanes fail unless they run just as many.
tell_what_is_left() { say "left to $2: $(count "$1") tests below tests/$1"; }

tell_what_is_not_tested() {
    shout "not tested: the upgrade from the previous release and the way back, $(count previous) tests below tests/previous." \
        "This copy of the sources has too little history to build that release: \`git fetch --unshallow\` brings it, or" \
        "CNI_BOX_PREVIOUS=DIRECTORY names the place of that release's cni-box (see scripts/previous-release.txt)."
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
broken_runs=0
run "$logs/lib" host_tests --lib
elsewhere=(--skip guest:: --skip without_ipv6:: --skip runtimes::)
if [ -n "${CNI_BOX_TEST_NO_PREVIOUS:-}" ]; then elsewhere+=(--skip previous::); fi
run "$logs/main" host_tests --test main -- "${elsewhere[@]}"
tell_what_is_left guest "the guest's kernel"
tell_what_is_left without_ipv6 "a guest's kernel without IPv6"
tell_what_is_left runtimes "container runtimes"
run "$logs/guest" scripts/test-vm.sh
if [ -z "${CNI_BOX_TEST_USER:-}" ]; then
    run "$logs/runtimes" scripts/test-runtimes.sh
else
    shout "not tested with container runtimes: they need root"
fi

if [ -n "${CNI_BOX_TEST_NO_PREVIOUS:-}" ]; then tell_what_is_not_tested; fi

passed=$(sum passed "$logs"/*)
failed=$(($(sum failed "$logs"/*) + broken_runs))
if [ "$passed" -eq 0 ]; then say "no test ran to its end"; fi
echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
