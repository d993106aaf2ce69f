# make dev: the development environment.  make test: everything that CI runs.
# Ansible and its collections live in .venv; nothing else of this machine's Python is touched.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PLAY := tools/play
export PATH := $(BIN):$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Ansible begins nothing with a locale that is not there, as one that came along over SSH, or that is not UTF-8.
export LC_ALL := C.UTF-8
# With the one, Python reads every module from its standard input byte by byte; with the other, it compiles files again and again.
unexport PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE

##@ Development environment
.PHONY: dev dev-check dev-destroy verify
dev: $(VENV)/.controller ## PostgreSQL, ClickHouse, schemas and demo data on this machine
	@$(PLAY) playbooks/dev.yml
	@$(PLAY) playbooks/verify.yml --limit dev

dev-check: $(VENV)/.controller ## what `make dev` would change
	@$(PLAY) playbooks/dev.yml --check --diff

dev-destroy: $(VENV)/.controller ## take the environment away again, data included; asks first
	@$(PLAY) playbooks/dev_destroy.yml

verify: $(VENV)/.controller ## log in as the application and look at everything
	@$(PLAY) playbooks/verify.yml --limit dev

##@ Tests
.PHONY: test lint sanity unit integration molecule bench
test: $(VENV)/.development ## all of the following
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint sanity unit # the first two have one processor each
	@$(MAKE) --no-print-directory integration molecule

lint: $(VENV)/.development ## yamllint, ansible-lint, ruff
	yamllint --strict .
	ruff check --quiet .
	ansible-lint -q --offline --strict

sanity: $(VENV)/.development ## ansible-test sanity, on a copy where Ansible wants a collection to be
	tools/sanity

unit: $(VENV)/.development ## no servers
	pytest -n 2 tests/unit

integration: $(VENV)/.development $(VENV)/.packages ## real PostgreSQL and ClickHouse on free ports
	pytest -n 3 --dist loadfile --no-loadscope-reorder tests/integration

molecule: $(VENV)/.development $(VENV)/.packages ## the scenarios on containers, where podman can run
	tools/molecule

bench: $(VENV)/.development $(VENV)/.packages ## the figures of docs/benchmarks.md
	python tests/benchmarks/run.py
	python tests/benchmarks/bench_schema.py

##@ Housekeeping
.PHONY: docs clean help
docs: $(VENV)/.development ## write the roles' READMEs from their argument specs
	python tools/role_readmes.py

clean: ## remove what make has made in this folder
	rm -rf $(VENV) .ansible .cache .pytest_cache .ruff_cache .hypothesis

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.controller: requirements.txt
	@tools/bootstrap requirements.txt && touch $@

$(VENV)/.development: requirements-dev.txt requirements.txt
	@tools/bootstrap requirements-dev.txt && touch $@ $(VENV)/.controller

$(VENV)/.packages: tools/packages
	@tools/packages && touch $@
