# make demo   everything from raw pictures to a served model, then one question to it
# make test   linters, types and all tests
# Both build .venv and the inference server's runtime when missing. Needed: Linux, Python 3.11 or newer, git, make.

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
# Hundreds of processes would compile torch and its like each for itself.
unexport PYTHONDONTWRITEBYTECODE

# No dependency reports anything to anyone, unless the caller says otherwise.
export DO_NOT_TRACK ?= 1
export DVC_NO_ANALYTICS ?= 1
export GX_ANALYTICS_ENABLED ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export ORT_DISABLE_TELEMETRY ?= 1
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
export RAY_USAGE_STATS_ENABLED ?= 0

# The first interpreter that runs and is supported: a name on PATH may be a shim that leads nowhere.
PYTHON ?= $(shell for python in python3.11 python3.12 python3 python3.13; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 \
	&& echo "$$python" && break; done)

.PHONY: help setup runtime git demo test lint ui orchestrate deploy pictures clean distclean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

setup: $(INSTALLED) runtime ## .venv with everything, and the inference server's runtime

$(VENV)/bin/uv:
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 on PATH; install one or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
		echo "PYTHON=$(PYTHON) is not a working Python 3.11, 3.12 or 3.13" >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$(PYTHON) cannot make virtual environments (no venv or ensurepip); on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; fi
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt -b constraints.txt -e '.[all]'
	@touch $@

runtime: | $(INSTALLED)
	@PYTHON="$(VENV)/bin/python" UV="$(CURDIR)/$(VENV)/bin/uv" infra/triton/setup.sh >/dev/null

git:
	@command -v git >/dev/null || { echo "git is needed: DVC keeps its state beside a git repository" >&2; exit 1; }
	@git rev-parse --is-inside-work-tree >/dev/null || { \
		echo "This folder is no git clone, and DVC needs one: git clone the repository, or run 'git init' here" >&2; exit 1; }

demo: git setup ## the whole pipeline, then a question to the served model
	@infra/demo.sh

# Processes that share the tests, most of which wait for a server or a subprocess.
PYTEST_WORKERS ?= 2

test: git setup lint ## linters, types and all tests
	$(VENV)/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(INSTALLED) ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

ui: setup ## Prefect and MLflow in the browser, on this machine alone, until Ctrl-C
	@infra/ui.sh

orchestrate: git setup ## Prefect server with all deployments and a worker, and MLflow, on this machine alone, until Ctrl-C
	@infra/orchestrate.sh

deploy: setup ## work pools and all deployments, on the running Prefect server
	@infra/deploy.sh

pictures: $(INSTALLED) ## the README's pictures, from the report of a run worth showing
	$(VENV)/bin/python infra/pictures.py

clean: ## remove results and caches of tools; the environment, the DVC cache and the tracking database stay
	rm -rf artifacts scratch build dvc_plots .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean ## clean, and remove the environment and the server's runtime
	rm -rf $(VENV) .runtime albef.egg-info
