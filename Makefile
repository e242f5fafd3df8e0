# Every target explains itself: make help.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(p)),$(p),)) python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BUF := $(VENV)/node/node_modules/.bin/buf
BUF_VERSION := 1.75.0
# Extra arguments for pip, such as an index with CPU builds of torch (the public default brings CUDA with it).
PIP_ARGS ?=
CORES ?= $(shell nproc)
DATASET ?= synthetic
DATA_DIR ?=
# One thread per native library: more of them turn small products into milliseconds on shared cores.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.PHONY: help
help: ## Say what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

.PHONY: demo
demo: $(STAMP) ## Train, serve and show recommendations (DATASET=ml-100k|ml-1m|online-retail|anime|amazon-reviews|tables, DATA_DIR=folder)
	@$(BIN)/tandem demo --dataset "$(DATASET)" $(if $(DATA_DIR),--data "$(DATA_DIR)",)

.PHONY: test
test: $(STAMP) lint types protos-check ## Lint, types, contracts and tests: what CI runs
	@$(BIN)/python -m pytest -q -n $(CORES) --dist loadfile

.PHONY: test-long
test-long: $(STAMP) ## Tests that train longer than a few seconds
	@$(BIN)/python -m pytest -q -m long

.PHONY: bench
bench: $(STAMP) ## Benchmarks: prints what was measured, fails on nothing
	@$(BIN)/python -m pytest -q -s -m bench tests

.PHONY: lint
lint: $(STAMP) ## ruff: style and likely mistakes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: $(STAMP) ## mypy --strict over our packages
	@$(BIN)/mypy

.PHONY: format
format: $(STAMP) ## Let ruff format and mend what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: protos
protos: $(STAMP) ## Generate shared/tandem from protos/
	@$(BIN)/python protos/generate.py

.PHONY: protos-check
protos-check: $(STAMP) ## buf lint, and generated code against protos/
	@$(BIN)/python protos/generate.py --check
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory buf-lint; \
	else echo "SKIPPED: buf lint (needs Node and npm, which this machine does not have)"; fi

.PHONY: buf-lint
buf-lint: $(BUF)
	@cd protos && ../$(BUF) lint && ../$(BUF) format --exit-code >/dev/null && echo "buf lint: clean"

$(BUF): | $(STAMP)
	@mkdir -p $(VENV)/node
	@echo "Installing buf $(BUF_VERSION), the linter of the contracts, with npm (once; it waits minutes where npm has no network)"
	@npm install --prefix $(VENV)/node --no-fund --no-audit --loglevel=error @bufbuild/buf@$(BUF_VERSION) >/dev/null

.PHONY: audit
audit: $(STAMP) ## Known holes and licences of what services, trainer and callers install
	@$(BIN)/python deploy/audit.py

.PHONY: golden
golden: $(STAMP) ## Renew the renderings of the chart that reviews look at (tests/deploy/golden)
	@TANDEM_GOLDEN=write $(BIN)/python -m pytest -q tests/deploy/test_chart_options.py -k reviewed
	@git --no-pager diff --stat -- tests/deploy/golden

.PHONY: image-check
image-check: $(STAMP) ## Build what the images build into clean environments, serve and train from them (needs 5 GB)
	@$(BIN)/python -m pytest -q -s -m long tests/deploy/test_image_steps.py

.PHONY: constraints
constraints: $(STAMP) ## Renew constraints.txt from the environment
	@{ echo "# Versions that were tested together. Renewed by: make constraints"; \
	   $(BIN)/pip freeze --exclude-editable | sed 's/+cpu//'; } > constraints.txt

.PHONY: clean
clean: ## Remove the environment and everything built
	rm -rf $(VENV) .cache build demo
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: prerequisites
prerequisites:
	@missing=""; suffix=""; \
	if ! command -v $(PYTHON) >/dev/null || ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  missing="$$missing python3.11 python3.11-venv python3.11-dev"; \
	else \
	  name=$$($(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
	  $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || missing="$$missing $$name-venv"; \
	  header=$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h; \
	  [ -e "$$header" ] || missing="$$missing $$name-dev"; \
	fi; \
	command -v g++ >/dev/null || missing="$$missing g++"; \
	if [ -n "$$missing" ]; then \
	  echo "Something is missing on this machine. Run this, then make again:" >&2; \
	  echo "  sudo apt-get update && sudo apt-get install -y$$missing" >&2; exit 1; fi

$(STAMP): pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory prerequisites
	@echo "Installing into $(VENV) (once; about two minutes)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@HNSWLIB_NO_NATIVE=1 $(BIN)/pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]' \
	  2>&1 | { grep -v 'is ignored: it is neither a file nor a directory' || true; }
	@touch $@
