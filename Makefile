# make demo   run the whole pipeline from raw images to a served model, then query the model
# make test   run linters, type checker and all tests
# Both create .venv and the inference server's runtime if missing. Requirements: Linux, Python 3.11 to 3.13, git, make.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
VENV := .venv
INSTALLED := $(VENV)/.installed
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
unexport PYTHONHOME
unexport PYTHONPATH
# Without cached bytecode, each of hundreds of processes would compile torch and other large packages again.
unexport PYTHONDONTWRITEBYTECODE

# uv brings certificates of its own; the system's, which pip uses, include those of a company's proxy.
export UV_SYSTEM_CERTS ?= true

# Telemetry of all dependencies is off, unless the caller sets these variables.
export DO_NOT_TRACK ?= 1
export DVC_NO_ANALYTICS ?= 1
export GRADIO_ANALYTICS_ENABLED ?= False
export GX_ANALYTICS_ENABLED ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export ORT_DISABLE_TELEMETRY ?= 1
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
export RAY_USAGE_STATS_ENABLED ?= 0

# The first supported interpreter that runs: a name on PATH may be a broken shim.
PYTHON ?= $(shell for python in python3.11 python3.12 python3 python3.13; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 \
	&& echo "$$python" && break; done)

.PHONY: help setup runtime git demo test test-unit lint ui orchestrate deploy figures docs clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

setup: $(INSTALLED) runtime ## create .venv with all dependencies, and the inference server's runtime

$(VENV)/bin/uv:
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 on PATH; install one, or run: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
		echo "PYTHON=$(PYTHON) is not a working Python 3.11, 3.12 or 3.13" >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$(PYTHON) cannot create virtual environments (no venv or ensurepip); on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; fi
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt -b constraints.txt -e '.[all]'
	@touch $@

runtime: | $(INSTALLED)
	@PYTHON="$(VENV)/bin/python" UV="$(CURDIR)/$(VENV)/bin/uv" infra/triton/setup.sh >/dev/null

git:
	@command -v git >/dev/null || { echo "git is not installed; DVC requires it" >&2; exit 1; }
	@git rev-parse --is-inside-work-tree >/dev/null || { \
		echo "This folder is not a git repository, which DVC requires: clone the repository with git, or run 'git init' here" >&2; exit 1; }

demo: git setup ## run the whole pipeline, then query the served model
	@infra/demo.sh

# Test processes, one more than the cores of a small machine: many tests wait for a server or a subprocess.
PYTEST_WORKERS ?= 3

test: git setup lint ## run linters, type checker and all tests
	$(VENV)/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

test-unit: git $(INSTALLED) ## run the unit tests, which need no server
	$(VENV)/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup --no-loadscope-reorder tests/unit tests/parity $(PYTEST_ARGS)

lint: $(INSTALLED) ## run ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --num-workers 2

ui: setup ## run Prefect and MLflow on loopback until Ctrl-C
	@infra/ui.sh

orchestrate: git setup ## run Prefect with all deployments and a worker, and MLflow, on loopback until Ctrl-C
	@infra/orchestrate.sh

deploy: setup ## create work pools and all deployments on the running Prefect server
	@infra/deploy.sh

figures: $(INSTALLED) ## update the README's figures from the report
	$(VENV)/bin/python infra/figures.py

docs: $(INSTALLED) ## build the documentation site in site/, with a reference from the code
	$(VENV)/bin/python -m infra.docs.pages
	$(VENV)/bin/zensical build --clean --strict

clean: ## remove results and tool caches; keep the environment, the DVC cache and the tracking database
	rm -rf artifacts scratch build site dvc_plots .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean ## clean, and remove the environment and the inference server's runtime
	rm -rf $(VENV) .runtime albef.egg-info
