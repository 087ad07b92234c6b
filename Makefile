# Needs make, git and Python 3.11 or newer; everything else goes into .venv. No activated environment is used.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
SOURCES := src tests conftest.py docs/draw_skeletons.py $(wildcard benchmarks)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint benchmark web clean browser

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/installed-dev  ## .venv with funnybone and what its development needs

demo: $(VENV)/installed  ## attack the embedded victim, and the same hardened; report in runs/synthetic-quick
	$(BIN)/funnybone audit

test: lint browser  ## lint, types, and every test that is not slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-all: test  ## the slow tests too, one at a time: some measure
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed-dev  ## ruff and mypy
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

benchmark: $(VENV)/installed-dev  ## measure speed, as ratios
	@set -e; for script in smart_step victims; do echo "== $$script"; $(BIN)/python benchmarks/$$script.py; done

web:  ## build the report's 3-D player from web/ (needs node)
	@command -v npm >/dev/null || { echo "make web needs node and npm"; exit 1; }
	cd web && npm ci && npm run build

clean:  ## remove caches and build output; .venv and runs/ stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The report's tests look at it in a browser; without one they are skipped, with the reason.
browser:
	@if command -v chromium >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "installing chromium, for the tests that look at the report in a browser"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
			|| echo "chromium could not be installed: the browser tests will be skipped"; \
	else \
		echo "no chromium: the browser tests will be skipped (as root: apt-get install chromium)"; \
	fi

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "funnybone needs Python 3.11 or newer; none was found (try make PYTHON=...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@[ $(VENV)/installed-dev -nt pyproject.toml ] && [ $(VENV)/installed-dev -nt constraints.txt ] || \
		{ echo "installing funnybone into $(VENV)"; $(PIP) -e .; }
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing funnybone and its development tools into $(VENV)"
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/installed
