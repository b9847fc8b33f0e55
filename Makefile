# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Installing rewrites this file's stamp; it is older than pyproject.toml when something has to be installed.
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.PHONY: help setup demo fmt lint types test bench docs wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV)  ## virtual environment with everything for development

demo: $(DEMO)  ## install, then train a small CNN on real handwritten digits on two processes
	$(BIN)/torchrelay run jobs/digits.yaml

fmt: $(DEV)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(DEV)  ## style, imports between layers, spelling, shell
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/shellcheck -x .ci/run tests/install.sh tests/slurm/on_release.sh tests/s3/on_ceph.sh tests/s3/ceph_server.sh tests/harness/debian_root.sh

types: $(DEV)  ## mypy, strict
	$(BIN)/mypy

test: $(DEV)  ## all tests, after installing Slurm for them (needs root or sudo)
	tests/install.sh
	$(BIN)/pytest -n 2

bench: $(BENCH)  ## measure against peers and write docs/benchmarks.md
	$(BIN)/python benchmarks/run.py

docs: $(DEV)  ## regenerate the JSON Schema and the spec reference
	$(BIN)/python -m torchrelay_launch.spec.schema
	$(BIN)/python -m torchrelay_launch.spec.reference

wheel: $(DEV)  ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove what was built; runs are kept
	rm -rf dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("torchrelay needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# What an installation leaves that was cut short, pip may not be able to go on from: then the next one begins anew.
define install
	@test ! -e $(VENV)/.installing || $(PYTHON) -m venv --clear $(VENV)
	@touch $(VENV)/.installing
	@echo "installing torch and the rest into $(VENV), which takes a minute or more"
	@trap 'exit 130' INT; $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(1)]' \
		|| { rm $(VENV)/.installing; exit 1; }
	@rm $(VENV)/.installing
endef

$(DEMO): pyproject.toml | $(BIN)/python
	$(call install,demo)
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	$(call install,dev)
	@touch $@ $(DEMO)

$(BENCH): $(DEV)
	$(PYTHON) -m venv .venv-torchx
	.venv-torchx/bin/python -m pip install --quiet --disable-pip-version-check 'torchx>=0.7'
	@touch $@
