# `make help` lists what there is. Everything runs from .venv, which is made when it is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo run test lint fmt clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

install: $(STAMP)  ## make .venv, with all that is needed

demo: $(STAMP)  ## run one example job through everything, then clean up
	$(BIN)/hades demo

run: $(STAMP)  ## run NATS, API, worker and log manager until Ctrl-C
	$(BIN)/hades dev

test: $(STAMP)  ## run the tests
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(STAMP)  ## check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(STAMP)  ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:  ## remove .venv and all caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Hades needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(MAKE) --no-print-directory venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Debian ships Python without ensurepip; virtualenv brings a pip of its own.
.PHONY: venv
venv:
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -m virtualenv --version >/dev/null 2>&1; then $(PYTHON) -m virtualenv -q $(VENV); \
	elif command -v virtualenv >/dev/null; then virtualenv -q -p $(PYTHON) $(VENV); \
	elif $(PYTHON) -m pip install --quiet --user virtualenv 2>/dev/null; \
	then $(PYTHON) -m virtualenv -q $(VENV); \
	else echo "'$(PYTHON)' can't make a virtual environment: install python3-venv (Debian, Ubuntu:" \
	  "apt-get install python3-venv) or virtualenv, then try again." >&2; exit 1; fi
