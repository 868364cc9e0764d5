# shellcheck shell=bash
# For lanes that run a part of the test program in a place of its own; to be sourced after lib.sh.

test_program() {
    cargo test --locked --no-run --test main --quiet --message-format=json-render-diagnostics |
        jq -r 'select(.target.name == "main" and .profile.test).executable'
}

# names PROGRAM MODULE FILTER: the tests below a module that have FILTER in their names
names() {
    "$1" --list --format terse "$2::" | sed -n 's/: test$//p' | grep -F -- "$3" ||
        die "no test below tests/$2 has \"$3\" in its name"
}

# figure passed LOG: from the closing line of the test program
figure() { sed -n "s/^test result:.* \([0-9]*\) $1;.*/\1/p" "$2" | grep . || echo 0; }

# tests_run LOG
tests_run() { echo $(($(figure passed "$1") + $(figure failed "$1"))); }
