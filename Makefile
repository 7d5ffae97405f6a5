# anonmem: build, demonstrate, test. `make help` lists the targets.

CARGO ?= cargo
ANONMEM = target/release/anonmem
KERNEL = target/microvm/anonmem-microvm
# The command carries this kernel; without the variable it builds one for itself.
CARRIES = ANONMEM_KERNEL=$(CURDIR)/$(KERNEL)

# Everything is built below ./target, whatever the environment says: the command looks for the kernel there.
export CARGO_TARGET_DIR := $(CURDIR)/target

.DEFAULT_GOAL := help
.PHONY: help deps kernel toy build install demo test lab stress evacuate oddcalls mutants mutants-generated planted planted-microvm scale-planted lint package doc clean \
	bench bench-instructions bench-instructions-record bench-instructions-planted

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-26s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install what is missing (QEMU, a static busybox, a C compiler, valgrind), through apt-get
	@scripts/install-deps

kernel: ## Build the microVM kernel
	$(CARGO) build --locked --package anonmem-microvm --profile microvm

toy: ## Build the toy kernel, machines/toy: the smallest one on the library
	$(CARGO) build --locked --package anonmem-toy --profile microvm

build: kernel ## Build the kernel and the command, which carries it: target/release/anonmem runs anywhere
	$(CARRIES) $(CARGO) build --locked --package anonmem-cli --release

install: kernel ## Install the command, with its kernel, into ~/.cargo/bin (four minutes the first time)
	$(CARRIES) $(CARGO) install --locked --path cli

demo: deps kernel ## Run a shell script that forks pipelines in the microVM, and print its memory bill
	$(CARRIES) $(CARGO) build --locked --package anonmem-cli --release --no-default-features
	@scripts/demo $(ANONMEM)

test: deps kernel toy ## Run all tests: unit, property, bounded stress, compile-fail, microVM
	@scripts/test

lab: ## Explore every case of the catalogue to its end
	ANONMEM_LAB=whole $(CARGO) test --locked --package anonmem-lab --test catalogue -- --nocapture every_case_passes

evacuate: ## Empty 10,000 quarters of memory under load
	ANONMEM_EVACUATE_ROUNDS=10000 $(CARGO) test --locked --release --package anonmem-hosted --test machine -- --nocapture any_quarter

stress: ## Run the threaded stress for ten minutes and a million random operations against the oracle
	ANONMEM_STRESS_SECONDS=600 $(CARGO) test --locked --package anonmem-hosted --test stress
	ANONMEM_RUNS=2000 $(CARGO) test --locked --package anonmem-hosted --test oracle

oddcalls: kernel ## Memory calls with odd arguments for an hour on the hosted machine and an hour in the microVM
	ANONMEM_ODDCALLS_SECONDS=3600 $(CARGO) test --locked --package anonmem-hosted --test machine -- --nocapture oddcalls::
	ANONMEM_REQUIRE_VM=1 ANONMEM_ODDCALLS_SECONDS=3600 $(CARGO) test --locked --package anonmem-cli --test microvm -- \
		--nocapture calls_with_odd_arguments

mutants: ## Plant known bugs in a copy of the tree and show that the lab and the tests find them (NAME=... for one)
	@mutants/run $(NAME)

mutants-generated: ## Plant hundreds of small bugs, one at a time; fail if under 90 % are found (FILES=... for some files)
	$(CARGO) run --locked --quiet --package anonmem-mutants -- $(FILES)

planted: ## Plant bugs in a copy of the tree and show that the tests find them
	@machines/hosted/tests/planted/run

planted-microvm: deps ## Plant bugs in the microVM's kernel and show that its tests find them
	@machines/microvm/planted/run

scale-planted: ## Plant a shared counter into the fault path and show that the table of conflicts fails
	@crates/anonmem-lab/tests/planted/run

bench: kernel ## Measure beside the host's Linux; the table, target/bench.json, .csv and .svg
	$(CARRIES) $(CARGO) run --locked --quiet --release --package anonmem-cli -- bench \
		--json target/bench.json --csv target/bench.csv --svg target/bench.svg

INSTRUCTIONS = $(CARGO) run --locked --quiet --release --package anonmem-bench --bin anonmem-instructions --

bench-instructions: deps ## Count the hot paths' instructions; fail if one grew by more than 3 %
	$(INSTRUCTIONS) check bench/instructions.toml

bench-instructions-record: deps ## Count them and write bench/instructions.toml
	$(INSTRUCTIONS) record bench/instructions.toml

bench-instructions-planted: deps ## Take away an optimisation and show that the count fails
	@bench/planted/run

lint: ## Check formatting, clippy, documentation and the rules of style
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --package anonmem-cli --no-default-features --all-targets -- -D warnings
	$(CARGO) clippy --locked --package anonmem-microvm --package anonmem-toy --profile microvm -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	$(CARGO) xtask tidy

package: ## Pack the library's crates, build each from its package, and with the oldest Rust that is promised
	@scripts/package

# A page links to another crate's if that is there already: the lower crates first.
doc: ## Build the documentation
	for crate in hal sync frame pgtable; do $(CARGO) doc --locked --no-deps --package anonmem-$$crate || exit; done
	$(CARGO) doc --locked --no-deps

clean: ## Remove everything that was built
	$(CARGO) clean
