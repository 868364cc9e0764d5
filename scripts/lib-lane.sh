# shellcheck shell=bash
# For lanes that run a part of the test program in a place of its own; to be sourced after lib.sh.

test_program() {
    cargo test --locked --no-run --test main --quiet --message-format=json-render-diagnostics |
        jq -r 'select(.target.name == "main" and .profile.test).executable'
}

# names PROGRAM FILTER MODULE...: the tests below these modules that have FILTER in their names
names() {
    local program=$1 filter=$2
    shift 2
    "$program" --list --format terse "${@/%/::}" | sed -n 's/: test$//p' | grep -F -- "$filter" ||
        die "no test below ${*/#/tests/} has \"$filter\" in its name"
}

# figure passed LOG: from the closing line of the test program
figure() { sed -n "s/^test result:.* \([0-9]*\) $1;.*/\1/p" "$2" | grep . || echo 0; }

# tests_run LOG
tests_run() { echo $(($(figure passed "$1") + $(figure failed "$1"))); }
