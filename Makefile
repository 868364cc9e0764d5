# cni-box: `make` builds it, `make help` lists the rest. What a goal does is in the script it names.

TARGET  ?= x86_64-unknown-linux-musl
OUT     := $(abspath $(or $(CARGO_TARGET_DIR),target))
BINARY  := $(OUT)/cni-box
CNI_REFERENCE_DIR ?= /usr/lib/cni

export TARGET OUT CNI_REFERENCE_DIR
export CNI_BOX_BIN := $(BINARY)

# Steps share the package manager and the target directory.
.NOTPARALLEL:
.PHONY: static deps vm-deps size test test-vm test-runtimes run bench bench-vm lint clean help

## (nothing): the static binary, at target/cni-box
static:
	@scripts/build-static.sh

## size: what is in the binary's bytes, and how many there are
size: static
	@scripts/size.sh

## deps: the programs that tests, walk-through and bench call (Debian packages; as root, only what is missing)
deps:
	@scripts/install-deps.sh

# With the virtual machine, which only tests need.
vm-deps:
	@scripts/install-deps.sh vm

## test: everything CI checks: lint, unit tests, the tests against this kernel, test-vm and test-runtimes
test: vm-deps static lint
	@scripts/test.sh

## test-vm: the tests that need Debian's kernel, in a virtual machine; FILTER=name runs those with name in their names
test-vm: vm-deps static
	@scripts/test-vm.sh $(FILTER)

## test-runtimes: the tests with containerd and podman, fetched from Debian but not installed (root); FILTER=name as above
test-runtimes: deps static
	@scripts/test-runtimes.sh $(FILTER)

## run: the redis walk-through, in namespaces of its own: nothing on this machine changes
run: deps static
	@scripts/walkthrough.sh

## bench: bare kernel work, cni-box and the reference plugins side by side
bench: deps static
	@scripts/bench.sh

## bench-vm: of it the rows about devices that need Debian's kernel, in a virtual machine
bench-vm: vm-deps static
	@scripts/bench.sh --vm

## lint: formatting and clippy, warnings are errors
lint:
	@cargo fmt --check
	@cargo clippy --locked --all-targets --quiet -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check bans licenses sources; fi

## clean: remove everything built
clean:
	@rm -rf $(OUT)

## help: this list
help:
	@sed -n 's/^## /  make /p' $(firstword $(MAKEFILE_LIST))
