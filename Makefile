# The targets that a developer and CI call. Needs Python 3.11 or later with venv, and make; nothing else.
# Everything installed comes from the hashed locks (requirements*.txt); a stamp file in .venv makes the second run instant.
# `make PYTHON=python3.13 check` chooses the interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Set by some shells and images; without bytecode each process of the tests would compile the same files.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# A lock is complete, so pip resolves nothing; `pip check` judges afterwards.
FROM_LOCK := $(BIN)/python install/from_lock.py
# A developer's environment takes 500, what pip has fetched meanwhile 130.
MIB_NEEDED := 650
# setuptools warns of every editable installation; newer pips pass that on.
OURSELVES := PYTHONWARNINGS=ignore $(PIP) install --quiet --no-deps --no-build-isolation --editable .
PYTEST := $(BIN)/python -m pytest
# Five more than the machine has cores, because tests with real processes wait much. A file's tests stay together: they
# share servers. tests/order.py says which files stay together as well, and in which order they begin.
WORKERS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 5)))
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
SAY = @printf '\n== %s\n'

.PHONY: help demo run check test all-tests outside simulation chaos soak static style bytecode types binaries definitions bench lock sbom docs manifests licences from-lock clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Start a small mesh on this machine and show it
	@exec $(BIN)/mesh-agent demo $(ARGS)

run: $(VENV)/.runtime ## Start one node with the settings of the environment
	@exec $(BIN)/mesh-agent run $(ARGS)

check: static ## Format, lint, types, layers, unit and contract tests (under a minute)
	$(SAY) "unit and contract tests, without the real Consul of make test"
	$(PYTEST) $(SIDE_BY_SIDE) tests/unit tests/contract -m "not consul"

# mypy has one core for itself; fetching waits for the network, and workers that collect tests leave room for it.
test: style ## Everything: check, a real Consul, all tests (under ten minutes)
	@$(MAKE) -j2 types all-tests

# What the installation wrote goes to the disk first: a test's write that has to be on it would wait for all of that.
all-tests: bytecode binaries
	$(SAY) "all tests"
	@sync
	$(PYTEST) $(SIDE_BY_SIDE) tests

outside: $(VENV)/.dev ## Run published servers and clients against a node; writes docs/compatibility.md
	$(SAY) "what others wrote"
	$(BIN)/python -m tests.outside $(ARGS)

SEEDS ?= 10000
FIRST ?= 0
NODES ?=
simulation: $(VENV)/.dev ## Simulate meshes under faults (SEEDS=10000 FIRST=0, SEEDS=20 NODES=200, or REPLAY='mesh 7')
	$(SAY) "the core of many nodes, on a clock of its own"
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first $(FIRST) $(if $(NODES),--nodes $(NODES)) $(if $(REPLAY),--replay $(REPLAY))

SEED ?=
KILLS ?= 200
chaos: $(VENV)/.dev ## Faults for two minutes, then 200 kills of a node, by a seed (SEED=7 KILLS=50); SEEDS=1000 simulates as well
	$(SAY) "faults on real processes"
	$(BIN)/python -m tests.chaos --kills $(KILLS) $(if $(SEED),--seed $(SEED)) $(ARGS)
ifneq ($(origin SEEDS),file)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first $(FIRST)
endif

SOAK_S ?= 900
soak: $(VENV)/.dev ## Two hours of faults and churn in a quarter of an hour (SOAK_S=120: a cut), with bounds on what a node holds
	$(SAY) "a soak of $(SOAK_S) s"
	$(BIN)/python -m tests.chaos --for $(SOAK_S) --soak $(if $(SEED),--seed $(SEED))

static: style bytecode types

style: $(VENV)/.dev
	$(SAY) "format, lint"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# For all processes of a run; the tests themselves are compiled as they are imported (tests/copied_workers.py).
bytecode: $(VENV)/.dev
	@$(BIN)/python -m compileall -q -j 0 -x '/test_[^/]*$$' agent discovery bench tests

types: $(VENV)/.dev
	$(SAY) "types, layers"
	$(BIN)/mypy
	$(BIN)/lint-imports

binaries: $(VENV)/.dev
	$(SAY) "real programs for the tests: Consul, nginx, dnsmasq and others"
	$(BIN)/python -m tests.debian_binary

definitions: $(VENV)/.dev ## Write the definitions of the node's own tools anew
	$(BIN)/python -m tests.own_definitions

bench: $(VENV)/.dev ## Measure calls, discovery and recovery
	$(BIN)/python -m bench $(ARGS)

# uv reads no pip settings, so neither a private index nor a folder of local wheels can narrow or taint the lock.
lock: $(VENV)/.dev ## Make the hashed locks anew (UPGRADE=--upgrade takes the newest releases)
	$(SAY) "locks"
	$(BUILD_REQUIREMENTS) | $(COMPILE) --output-file requirements.txt pyproject.toml -
	$(BUILD_REQUIREMENTS) | $(COMPILE) --output-file requirements-dev.txt --constraint requirements.txt --extra dev \
		pyproject.toml -

	printf '$(SBOM_TOOL)\n' | $(COMPILE) --output-file requirements-sbom.txt --constraint requirements.txt -
	printf '$(SITE_TOOL)\n' | $(COMPILE) --output-file requirements-docs.txt -
	printf '%s\n' $(DEPLOY_TOOLS) | $(COMPILE) --output-file requirements-deploy.txt -

# Its tool has dependencies of its own, and an environment of its own, so that the tests need neither.
SBOM := build/sbom.cdx.json
SBOM_TOOL := cyclonedx-bom>=7.5
sbom: $(VENV)/.sbom ## Write what the node is made of, from its lock (CycloneDX)
	$(SAY) "software bill of materials"
	@mkdir -p $(dir $(SBOM))
	@$(VENV)/sbom/bin/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --mc-type application \
		--output-reproducible --output-format JSON --output-file $(SBOM)
	@echo $(SBOM)

# As the tool above: an environment of its own, from a lock of its own.
SITE_TOOL := mkdocs-material>=9.6
docs: $(VENV)/.docs ## Build the documentation as a site (build/site)
	$(SAY) "documentation"
	@NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --strict --quiet
	@echo build/site/index.html

# Kubernetes' own schemas, and a reader of HCL; what the files say is held by tests/unit/project/test_deploy.py.
DEPLOY_TOOLS := 'kubernetes-validate>=1.37' 'python-hcl2>=8'
manifests: $(VENV)/.deploy ## Validate the files of deploy/ for Kubernetes and Nomad
	$(SAY) "manifests"
	@$(VENV)/deploy/bin/kubernetes-validate --strict deploy/kubernetes/*.yaml
	@$(VENV)/deploy/bin/hcl2tojson deploy/nomad/mesh.nomad.hcl >/dev/null && echo "deploy/nomad/mesh.nomad.hcl is HCL"

licences: $(VENV)/.dev ## List the licences of what the node is made of in docs/licences.md
	@$(BIN)/python -m tests.licences

# --universal: one lock with markers for every interpreter and system, not only for the one that made it.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--annotation-style line --no-config $(UPGRADE)
BUILD_REQUIREMENTS = $(BIN)/python -c 'import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'

from-lock: | $(BIN)/python # Install LOCK=FILE into VENV=FOLDER as every lock is installed (tests/install)
	@$(FROM_LOCK) $(LOCK)
	@$(PIP) check

$(VENV)/.sbom: requirements-sbom.txt | $(BIN)/python
	$(SAY) "packages of the tool, from requirements-sbom.txt"
	@$(PYTHON) -m venv $(VENV)/sbom
	@$(VENV)/sbom/bin/python install/from_lock.py requirements-sbom.txt
	@touch $@

$(VENV)/.docs: requirements-docs.txt | $(BIN)/python
	$(SAY) "packages of the tool, from requirements-docs.txt"
	@$(PYTHON) -m venv $(VENV)/docs
	@$(VENV)/docs/bin/python install/from_lock.py requirements-docs.txt
	@touch $@

$(VENV)/.deploy: requirements-deploy.txt | $(BIN)/python
	$(SAY) "packages of the tools, from requirements-deploy.txt"
	@$(PYTHON) -m venv $(VENV)/deploy
	@$(VENV)/deploy/bin/python install/from_lock.py requirements-deploy.txt
	@touch $@

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
	@free=$$(df -Pk . | awk 'END {print int($$4 / 1024)}'); (( free >= $(MIB_NEEDED) )) \
		|| { echo "$(MIB_NEEDED) MiB of disk are needed here for the packages; $$free are free."; exit 1; }
	$(SAY) "virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt pyproject.toml | $(BIN)/python
	$(SAY) "packages of the node, from requirements.txt"
	@$(FROM_LOCK) requirements.txt
	@$(OURSELVES)
	@$(PIP) check
	@touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(BIN)/python
	$(SAY) "packages of the node and of its tests, from requirements-dev.txt"
	@$(FROM_LOCK) requirements-dev.txt
	@$(OURSELVES)
	@$(PIP) check
	@touch $@ $(VENV)/.runtime
