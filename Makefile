# The front door. A recipe that grows becomes Rust.
.DEFAULT_GOAL := help
.PHONY: help setup demo test kubernetes nemesis cache-clients lint sim bench

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: ## installs what the tests and the demo need, or names what is missing
	@sh tests/setup.sh

demo: ## the main job on this machine: push, build, deploy, switch, roll back (DEMO_EXIT=1 ends by itself; DEMO=canary shows a canary and its gate)
	@SLIPWAY_IMAGES=toolchain sh tests/setup.sh >/dev/null
	cargo build --quiet -p slipway-cli -p slipway-tests --bins
	@./target/debug/slipway-demo $(DEMO)

test: ## every test; what setup could install is required, not skipped
	@set -e; required=$$(sh tests/setup.sh | tail -n 1); echo "$$required"; \
	export "$$required"; cargo test --workspace

kubernetes: ## what speaks to a cluster, against a real API server (its first build takes minutes; not part of make test)
	@set -e; plane=$$(sh tests/kubernetes/setup.sh); export "$$plane"; \
	cargo test -p slipway-tests --test kubernetes -- --ignored

nemesis: ## N builds while processes are killed, frozen and cut off (N=200; SEED repeats a plan of faults)
	@sh tests/setup.sh >/dev/null
	cargo build --quiet -p slipway-tests --bins
	@./target/debug/slipway-nemesis $(or $(N),200) $(SEED)

cache-clients: ## installs the build tools that nobody here wrote, and drives each against the cache: miss, put, hit
	@sh tests/clients/install.sh
	cargo test -p slipway-tests --test clients -- --include-ignored --test-threads 1

sim: ## the seeded simulation: make sim SEEDS=200
	SIM_SEEDS=$(or $(SEEDS),200) cargo test --release -p slipway-tests --test sim

lint: ## formatting, clippy, dependency rules
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check bans licenses sources; \
	else echo "lint: cargo-deny is not installed; the architecture test holds the import rules"; fi

bench: ## one bench, one JSON line per figure: make -s bench NAME=stages (ONLY=part of fleet)
	@cargo bench --quiet -p slipway-bench --bench $(NAME) -- $(ONLY)
