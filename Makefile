# Every target does its own set-up, so that each works in a fresh clone; the second time there is nothing left to set up.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help test demo lint format types layers image e2e bench soak lock proto tools clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Most of the tests' time goes by in waiting: for daemons, file systems, deadlines. The names of sockets in their folders leave little
# room, so that pytest's own, long ones will not do.
test: JOBS ?= 5
test: $(READY) tools ## all tests but soak and image; ARGS="-k watch" selects, JOBS=0 runs them in one process
	@echo "tests: $(if $(ARGS),those that ARGS selects,all of them; about 10 minutes on 2 cores). Nothing is shown while they are collected: half a minute."
	base=$$(mktemp -d -t t.XXXXXX) && trap 'rm -rf "$$base"' EXIT \
		&& $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal --basetemp "$$base" $(ARGS)

demo: $(READY) ## a simulated 8-GPU node follows a file through a story of commits: a minute and a half; ARGS=--step waits for keys
	@echo "demo: a simulated node, a stand-in kubelet and the agent play ten commits: a minute and a half. Ctrl-C ends it."
	$(BIN)/nodeagent demo --once $(ARGS)

lint: $(READY) ## lint, and whether the code is formatted
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(READY) ## format the code, mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(READY) ## mypy, strict
	$(BIN)/mypy

layers: $(READY) ## who may import whom
	$(BIN)/lint-imports

image: $(READY) tools ## the container image: built without Docker, started and tested; needs root
	$(BIN)/pytest -m image $(ARGS)

# Exported, and not written into the command line: a command that restarts a kubelet may have quotes of its own.
e2e: export NODEAGENT_E2E_IMAGE := $(IMAGE)
e2e: export NODEAGENT_E2E_NODE := $(NODE)
e2e: export NODEAGENT_E2E_RESTART_KUBELET := $(RESTART_KUBELET)
e2e: export NODEAGENT_E2E_SCALE := $(SCALE)
e2e: export NODEAGENT_E2E_REPORT := $(REPORT)
e2e: export NODEAGENT_E2E_REAL_GPUS := $(REAL_GPUS)
e2e: $(READY) ## the agent in the cluster that KUBECONFIG names, on simulated GPUs; NODE=, IMAGE=, SCALE= and more: docs/e2e.md
	$(BIN)/pytest -m e2e tests/e2e $(ARGS)

bench: $(READY) ## what the speed and size promises measure here; QUICK=1 is shorter
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

soak: SEED ?= $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')
soak: $(READY) ## the full counts, many minutes; SCALE=0.1 does a tenth, SEED=N repeats a run
	NODEAGENT_SOAK_SCALE=$(or $(SCALE),1) NODEAGENT_SOAK_SEED=$(SEED) $(BIN)/pytest -m soak $(ARGS)

# The image is made of what is tested: requirements.lock has the versions of requirements-dev.lock, with hashes.
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --strip-extras \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options
lock: $(READY) ## write the locks anew from pyproject.toml and requirements-image.in; UPGRADE=1 takes newer versions
	$(COMPILE) $(if $(UPGRADE),--upgrade) --extra dev --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --generate-hashes --constraint requirements-dev.lock --extra kubernetes --output-file requirements.lock pyproject.toml
	$(COMPILE) $(if $(UPGRADE),--upgrade) --generate-hashes --output-file requirements-image.lock requirements-image.in

proto: ## generate the kubelet's messages anew
	hack/generate-proto

tools: ## what some tests need from Debian and npm: into .tools/, not into the system
	@hack/debian-tools

clean: ## remove everything that the other targets made
	rm -rf $(VENV) .tools dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "cannot set up: $(PYTHON) is older than Python 3.11; name another one with PYTHON=..." >&2; exit 1; }
	@echo "set-up, once: Python packages are downloaded into $(VENV), about a minute"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
