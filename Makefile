# Everything that a person and the checks call is here. `make setup` is implied by the rest and does nothing twice.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# 3.11 is what the pinned requirements were tested with; anything newer is tried when it is not there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.ready
# Set PYTEST_ARGS to narrow or widen: make test PYTEST_ARGS="-k store -x"
PYTEST_ARGS ?=
BENCH_ARGS  ?=

.PHONY: help setup tools demo test lint types layers check bench matrix torture clean

help:
	@echo "make setup    build $(VENV) with pinned requirements (about 5 minutes and 3 GB; nothing the second time)"
	@echo "make tools    what tests use besides Python (strace, FUSE, xfs, btrfs, Chromium), by apt-get as root; the tests that lack them are skipped"
	@echo "make demo     train, kill, resume, compare bit for bit, and draw it (under two minutes)"
	@echo "make test     the tests, without the ones marked torture"
	@echo "make check    lint, types, layers and test"
	@echo "make bench    saving, waiting, restoring and overhead beside peers and the limit: tables, and bench.png"
	@echo "make matrix   every kind of model, on every backend, in every export format: docs/export_matrix.md (about an hour)"
	@echo "make torture  the whole kill matrix and everything else that takes hours"
	@echo "make clean    remove $(VENV) and what the tools left"

setup: $(STAMP)

# torch is named with its version so that an index which offers a CPU build of it is asked for just that one.
# --no-build-isolation: the build back end is pinned in requirements/dev.txt like everything else.
$(STAMP): pyproject.toml requirements/dev.txt requirements/package.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "setup: $(PYTHON) is older than Python 3.11; name a newer one: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@[ -x $(PY) ] || { echo "setup: creating $(VENV) with $$($(PYTHON) -V)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup: installing torch 2.13.0 (a CPU build is enough; see requirements/README.md)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements/dev.txt torch==2.13.0
	@echo "setup: installing the frameworks and tools pinned in requirements/dev.txt"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements/dev.txt hatchling editables
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements/dev.txt --no-build-isolation -e '.[dev]'
	@cp requirements/package.json $(VENV)/package.json
	@command -v npm > /dev/null && npm install --prefix $(VENV) --silent --no-audit --no-fund --no-package-lock \
	  || echo "setup: npm could not install TensorFlow.js and Azurite; the tests of them are skipped"
	@touch $(STAMP)
	@echo "setup: done; the command is $(VENV)/bin/modelkeep"

# Where they cannot be installed (no root, no apt, no network) the tests that need them are skipped, each with its reason.
TOOLS := strace fuse3 xfsprogs btrfs-progs chromium
tools:
	@missing=""; \
	for name in $(TOOLS); do dpkg -s $$name > /dev/null 2>&1 || missing="$$missing $$name"; done; \
	if [ -n "$$missing" ]; then \
	  echo "tools: installing$$missing"; \
	  { timeout 600 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -qq -y \
	      --no-install-recommends $$missing; } > /dev/null 2>&1 \
	    || echo "tools: could not install$$missing; the tests that use them are skipped"; \
	fi

demo: setup
	@$(VENV)/bin/modelkeep demo

test: setup tools
	$(PY) -m pytest -n 2 --dist worksteal -m "not torture" $(PYTEST_ARGS)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup
	$(VENV)/bin/mypy

layers: setup
	$(VENV)/bin/lint-imports --no-cache

check: lint types layers test

bench: setup
	$(PY) -m bench.run $(BENCH_ARGS)

# A kind that is refused has a row too; a line of JSON for each.
matrix: setup tools
	@folder=$$(mktemp -d); trap 'rm -rf '$$folder EXIT; \
	for backend in tensorflow jax torch; do \
	  KERAS_BACKEND=$$backend $(PY) tests/exporters/model_kinds.py $$folder/$$backend > $$folder/$$backend.jsonl; \
	done; \
	$(PY) tests/exporters/matrix.py $$folder/*.jsonl

torture: setup tools
	$(PY) -m pytest -n 2 --dist worksteal -m torture $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
