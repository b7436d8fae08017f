# Everything a developer or a machine runs by name. `make` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## three networks with a hub and two gateways, two hosts with a protected machine, and what they show (ONCE=1: show once, check every claim, clean up)
	@scripts/deps build demo
	@scripts/demo

.PHONY: test
test: ## every test, end to end ones included (these need root)
	@scripts/deps build test
	@scripts/test

.PHONY: lint
lint: ## formatting, clippy, documentation, licences and sources of dependencies, generated reference
	@scripts/deps build lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --quiet
	cargo deny check bans licenses sources
	@scripts/reference --check

.PHONY: check
check: ## the fast inner loop: formatting, clippy, unit tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace --lib --bins --quiet

.PHONY: reference
reference: ## write docs/reference from the code
	@scripts/reference

.PHONY: audit
audit: ## known vulnerabilities in dependencies, from a local copy of the advisory database: ADVISORY_DB=directory
	@scripts/deps build lint
	@scripts/audit "$(ADVISORY_DB)"

.PHONY: fuzz
fuzz: ## coverage-guided fuzzing of everything that parses, FUZZ_SECONDS=60 for each target
	@scripts/deps build fuzz
	@scripts/fuzz

.PHONY: bench-tunnel
bench-tunnel: ## speed of the tunnel, as a table and in bench/results/tunnel.json (its peers are not there yet)
	@scripts/deps build demo
	@scripts/bench tunnel

.PHONY: bench-protect bench-broker soak package
bench-protect: ## fail-over and replication of virtual machines (not there yet)
bench-broker: ## delivery of content to devices (not there yet)
soak: ## hours of traffic with faults injected (not there yet)
package: ## a Debian package (not there yet)
bench-protect bench-broker soak package:
	@echo "make $@: not there yet" >&2; exit 1
