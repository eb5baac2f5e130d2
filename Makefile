# The ways in. Each target is a script in scripts/, so that it can be read and run without make.
# ARGS is passed on: make start ARGS="--ports auto".

ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help start test proof bench lint dist

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

start: ## install what is missing, build, run a node with its data in ./data (ARGS="--ports auto")
	@scripts/start $(ARGS)

test: ## install what the tests need, then run formatter, linter and every test
	@scripts/test $(ARGS)

proof: ## run the full proofs, each adding a JSON line to docs/measured/; can be interrupted and resumed
	@scripts/proof $(ARGS)

bench: ## build and print one table: what, holdfast, peer, ratio, machine, date
	@scripts/bench $(ARGS)

lint: ## formatter, clippy, shellcheck and the rules of the tree
	@scripts/lint $(ARGS)

dist: ## make a tarball, a .deb and an OCI image archive in dist/
	@scripts/dist $(ARGS)
