# Every target does its own set-up on a fresh machine: `make demo` and `make test` are all it takes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= demo-out
SOURCES := $(shell git ls-files -co --exclude-standard 'schemas/*' 'recorder/*' 'analysis/*' 'dashboards/*' 2>/dev/null)

.PHONY: help demo test lint soak bench install browser pages clean

help:
	@echo "make demo    record, score and show two small trained models ($(OUT)/)"
	@echo "make test    everything that CI runs"
	@echo "make lint    ruff and mypy only"
	@echo "make soak    every fault that a recording or a store can meet; writes docs/reliability.md"
	@echo "make bench   measurements: size, overhead, speed"
	@echo "make pages   what the commands on docs/recording.md print now"

# The constraints file is the set of versions that the tests ran with.
$(VENV)/requirements: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' --config-settings editable_mode=strict
	touch $@

# Strict editable mode links each file, so that mypy and editors resolve attlas.*; a new file needs a new link.
$(VENV)/installed: $(VENV)/requirements $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable . --config-settings editable_mode=strict
	touch $@

install: $(VENV)/installed

demo: install
	$(BIN)/attlas demo --out $(OUT)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p attlas.schemas -p attlas.recorder -p attlas.analysis -p attlas.dashboards

# What is compiled is kept, whatever the environment says: each test process would compile all tests again.
test: export PYTHONDONTWRITEBYTECODE :=
test: lint browser
	$(BIN)/pytest -n 2

# The browser tests drive Debian's chromium.
browser:
	@command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium >/dev/null)

# Three quarters of an hour on two cores; a sample of it is among the tests.
soak: install
	$(BIN)/python tests/faults/soak.py --workers 2 --report docs/reliability.md

# With every core, as a user's model runs; the tests share them out.
bench: install
	OMP_NUM_THREADS=$$(nproc) $(BIN)/pytest tests/benchmarks --dist=no --benchmark-enable --benchmark-only -s

# What the commands on the page print now.
pages: install
	$(BIN)/python tests/page_examples.py docs/recording.md

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
