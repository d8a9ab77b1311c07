# The targets that a developer and CI call. Needs Python 3.11 or later with venv, and make; nothing else.
# Everything installed comes from the hashed locks (requirements*.txt); a stamp file in .venv makes the second run instant.
# `make PYTHON=python3.13 check` chooses the interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PIP_INSTALL := $(PIP) install --no-deps --progress-bar off
# `$(call from_lock,FILE)`. The lock is complete, so pip resolves nothing (--no-deps): pip before 23.3 resolves
# `name[extra]` apart from the pinned `name`, and stops as soon as a newer release of it is out. `pip check` judges
# afterwards. Wheels only: a source build would fetch unlocked build tools and want a compiler.
from_lock = $(PIP_INSTALL) --require-hashes --only-binary :all: --requirement $(1) 2>&1 | $(call PROGRESS,$(1))
# One line that counts instead of two or three for each package; whatever else pip says is shown.
PROGRESS = awk -v all="$$(grep -c '^[A-Za-z0-9]' $(1))" -v tty="$$(test -t 1 && echo 1 || true)" '\
	/^(Collecting|Ignoring|Requirement already satisfied:?) / { n++; \
		if (tty) printf "\r   %d of %d packages", n, all; else if (n % 25 == 0) print "   " n " of " all " packages"; \
		fflush(); next } \
	/^ *(Downloading|Using cached|Obtaining|Preparing metadata|Attempting uninstall|Found existing|Uninstalling) / { next } \
	/^ *Successfully uninstalled / { next } \
	/^Installing collected packages:/ { if (tty) printf "\n"; print "   installing"; fflush(); next } \
	/^Successfully installed / { print "   installed " NF - 2 " packages"; next } \
	{ if (tty && n) printf "\n"; print; fflush() }'
OURSELVES := $(PIP_INSTALL) --quiet --no-build-isolation --editable .
PYTEST := $(BIN)/python -m pytest
# One more than the machine has cores, because tests with real processes wait much. A file's tests stay together: they
# share servers. Files begin in the order of tests/conftest.py.
WORKERS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 1)))
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
SAY = @printf '\n== %s\n'

.PHONY: help demo run check test outside static lint unit consul-binary bench lock from-lock clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Start a small mesh on this machine and show it
	@exec $(BIN)/mesh-agent demo $(ARGS)

run: $(VENV)/.runtime ## Start one node with the settings of the environment
	@exec $(BIN)/mesh-agent run $(ARGS)

check: static ## Format, lint, types, layers, unit and contract tests (under a minute)
	$(SAY) "unit and contract tests, without the real Consul of make test"
	$(PYTEST) $(SIDE_BY_SIDE) tests/unit tests/contract -m "not consul"

test: static consul-binary ## Everything: check, a real Consul, all tests (under ten minutes)
	$(SAY) "all tests"
	$(PYTEST) $(SIDE_BY_SIDE) tests

outside: $(VENV)/.dev ## Run published servers and clients against a node; writes docs/compatibility.md
	$(SAY) "what others wrote"
	$(BIN)/python -m tests.outside $(ARGS)

static: $(VENV)/.dev
	$(SAY) "format, lint, types, layers"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

consul-binary: $(VENV)/.dev
	$(SAY) "a real Consul for the tests"
	$(BIN)/python -m tests.consul_binary

bench: $(VENV)/.dev ## Measure calls, discovery and recovery
	$(BIN)/python -m bench $(ARGS)

# uv reads no pip settings, so neither a private index nor a folder of local wheels can narrow or taint the lock.
lock: $(VENV)/.dev ## Make the hashed locks anew (UPGRADE=--upgrade takes the newest releases)
	$(SAY) "locks"
	$(BUILD_REQUIREMENTS) | $(COMPILE) --output-file requirements.txt pyproject.toml -
	$(BUILD_REQUIREMENTS) | $(COMPILE) --output-file requirements-dev.txt --constraint requirements.txt --extra dev \
		pyproject.toml -

# --universal: one lock with markers for every interpreter and system, not only for the one that made it.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--annotation-style line --no-config $(UPGRADE)
BUILD_REQUIREMENTS = $(BIN)/python -c 'import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'

from-lock: | $(BIN)/python # Install LOCK=FILE into VENV=FOLDER as every lock is installed (tests/install)
	@$(call from_lock,$(LOCK))
	@$(PIP) check

clean: ## Remove everything that make made
	rm -rf $(VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find agent discovery tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null \
		|| { echo "There is no '$(PYTHON)' here. On Debian: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "'$(PYTHON)' has no venv module. On Debian: apt-get install python3-venv"; exit 1; }
	$(SAY) "virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt pyproject.toml | $(BIN)/python
	$(SAY) "packages of the node, from requirements.txt"
	@$(call from_lock,requirements.txt)
	@$(OURSELVES)
	@$(PIP) check
	@touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(BIN)/python
	$(SAY) "packages of the node and of its tests, from requirements-dev.txt"
	@$(call from_lock,requirements-dev.txt)
	@$(OURSELVES)
	@$(PIP) check
	@touch $@ $(VENV)/.runtime
