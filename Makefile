# The front door. A recipe that grows becomes Rust.
.DEFAULT_GOAL := help
.PHONY: help setup test lint

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: ## installs what the tests and the demo need, or names what is missing
	@./tests/setup.sh

lint: ## formatting, clippy, dependency rules
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

test: ## every test
	cargo test --workspace
