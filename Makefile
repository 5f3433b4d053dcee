# The targets that a user runs. `make help` lists them, and docs/ explains them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Everything is built in target/ with the flags of .cargo/config.toml. If these variables are set for other projects, make
# would use stale files, or cargo would link the payload without its script.
export CARGO_TARGET_DIR := $(CURDIR)/target
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET CARGO_BUILD_RUSTFLAGS

PAYLOAD_TARGET := aarch64-unknown-none-softfloat
RUNNER_TARGET := aarch64-unknown-linux-musl
STATIC_TARGETS := $(RUNNER_TARGET) x86_64-unknown-linux-musl
# QEMU loads the plugin, so it is for the C library of this machine, and not static.
PLUGIN_TARGET := x86_64-unknown-linux-gnu
PAYLOAD_ELF := target/$(PAYLOAD_TARGET)/payload/faultline-payload
PAYLOAD := target/faultline-payload.img
RUNNER := target/$(RUNNER_TARGET)/release/faultline
FAULTLINE := target/release/faultline
DIST := target/dist
CARGO_DEB_VERSION := 3.8.0
CACHE := $(or $(FAULTLINE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/faultline)
CARGO_DEB := $(CACHE)/cargo-deb-$(CARGO_DEB_VERSION)
RESULTS ?= results

# Programs for other machines contain no path of this one, so two clones give the same bytes. These flags are added to
# those of .cargo/config.toml.
CARGO_HOME ?= $(HOME)/.cargo
REMAP := "--remap-path-prefix=$(CURDIR)=/faultline", "--remap-path-prefix=$(CARGO_HOME)=/cargo"
build-for = cargo build -q --locked --target $(1) --config 'target.$(1).rustflags=[$(REMAP)]'

# The kernels of `make reproduce`.
BEFORE ?= debian:6.1
AFTER ?= debian:6.12
# The kernel of `make lab`, and the command that runs there.
KERNEL ?= debian:6.12
ARGS ?= run relax

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST) | sort

.PHONY: setup
setup: ## install what building and running need (as root), or name what is missing
	@lab/setup

.PHONY: setup-kernels
setup-kernels: ## install what building policy kernels needs, too
	@lab/setup kernels

.PHONY: payload
payload: setup ## build the guest's image
	@$(call build-for,$(PAYLOAD_TARGET)) --profile payload -p payload
	@objcopy -I elf64-little -O binary $(PAYLOAD_ELF) $(PAYLOAD).part
	@cmp -s $(PAYLOAD).part $(PAYLOAD) && rm $(PAYLOAD).part || mv $(PAYLOAD).part $(PAYLOAD)

.PHONY: build
build: payload ## build the guest's image, the static arm64 runner, the native runner and the plugin
	@$(call build-for,$(RUNNER_TARGET)) --release -p host-runner --bin faultline
	@cargo build -q --release --locked -p host-runner -p cmo-plugin --lib --bin faultline

.PHONY: reproduce
reproduce: build ## show the lockup on kernel BEFORE= and its absence on AFTER= (start here)
	@$(FAULTLINE) reproduce --before '$(BEFORE)' --after '$(AFTER)' --results '$(RESULTS)'

.PHONY: reproduce-patch
reproduce-patch: setup-kernels build ## run the storm on kernels from one source that differ by one rule
	@$(FAULTLINE) reproduce-patch --results '$(RESULTS)'

.PHONY: reproduce-patch-2m
reproduce-patch-2m: setup-kernels build ## do the same with 2 MiB blocks alone: 16 vCPUs on 512 blocks
	@$(FAULTLINE) reproduce-patch --plan small-blocks --results '$(RESULTS)'

.PHONY: matrix
matrix: setup-kernels build ## count the maintenance for many CPUs, page sizes and KVM modes
	@$(FAULTLINE) matrix --results '$(RESULTS)'

.PHONY: sanitize
sanitize: setup-kernels build ## try the sanitizer on kernels with one maintenance fault each
	@$(FAULTLINE) sanitize --results '$(RESULTS)'

.PHONY: reference
reference: setup-kernels build ## make results/reference anew
	@lab/reference

.PHONY: lab
lab: build ## run ARGS="run …" on KERNEL= in the emulated lab
	@$(FAULTLINE) lab --kernel '$(KERNEL)' --results '$(RESULTS)' -- $(ARGS)

.PHONY: run
run: payload ## run the guest alone, on QEMU's plain virt machine
	@timeout -k 5 120 qemu-system-aarch64 -machine virt -cpu cortex-a57 -smp 4 -m 2G -nographic -kernel $(PAYLOAD) </dev/null

.PHONY: check
check: ## run fmt, clippy on all targets, and the unit tests (seconds)
	@cargo fmt --check
	@cargo clippy -q --locked --all-targets -- -D warnings
	@cargo clippy -q --locked -p payload --target $(PAYLOAD_TARGET) -- -D warnings
	@cargo clippy -q --locked -p host-runner --target $(RUNNER_TARGET) -- -D warnings
	@cargo test -q --locked

.PHONY: test-formats
test-formats: build ## let the tools that labs and people use read every format and every page
	@lab/setup formats
	@tests/formats/tools
	@tests/formats/validate
	@tests/formats/submit
	@tests/formats/lava-run
	@tests/formats/report-page

.PHONY: test
test: build check test-formats ## run check and test-formats, and everything end to end under QEMU
	@cargo test -q --locked -p host-runner --test end_to_end --test survival --test nights --test litmus --test coherence --test sanitizer --test newest -- --ignored --test-threads 1

.PHONY: test-long
test-long: setup-kernels setup-release test ## run test, and the tests that take longer (builds kernels once)
	@tests/compare-policies
	@cargo test -q --locked -p host-runner --test storm --test pstore -- --ignored --test-threads 1
	@FAULTLINE_PROPERTY_PROGRAMS=100000 cargo test -q --release --locked -p cmo-plugin --lib property
	@$(FAULTLINE) sanitize --results target/sanitize
	@tests/sanitize-stock
	@tests/release.sh
	@tests/lava-newest

.PHONY: test-release
test-release: setup-release ## test that releases are the same twice, install, purge, and work in the lab
	@tests/release.sh

# The time for which `make fuzz` runs each target, in seconds.
FUZZ_SECONDS ?= 300

.PHONY: fuzz
fuzz: setup ## run every fuzz target for FUZZ_SECONDS= with AddressSanitizer, from real inputs
	@lab/setup fuzz
	@tests/fuzz.sh $(FUZZ_SECONDS)

.PHONY: bench
bench: build ## measure sizes, instruction counts and ratios, and check the limits of some
	@cargo test -q --locked -p host-runner --test bench -- --ignored --nocapture --test-threads 1

.PHONY: release
release: setup-release payload ## make static programs, .deb packages and SHA256SUMS in target/dist
	@$(foreach target,$(STATIC_TARGETS),CARGO_INCREMENTAL=0 $(call build-for,$(target)) --release -p host-runner --bin faultline;)
	@[ "$$(uname -m)" != x86_64 ] || CARGO_INCREMENTAL=0 $(call build-for,$(PLUGIN_TARGET)) --release -p cmo-plugin
	@lab/release $(DIST) '$(CARGO_DEB)/bin/cargo-deb'

.PHONY: setup-release
setup-release: ## install what `make release` needs, too
	@lab/setup release
	@[ -x '$(CARGO_DEB)/bin/cargo-deb' ] || env -u CARGO_TARGET_DIR cargo install -q --locked --version $(CARGO_DEB_VERSION) --root '$(CARGO_DEB)' cargo-deb

.PHONY: clean
clean: ## remove what was built (kernels stay in ~/.cache/faultline)
	@cargo clean -q
