# Thin names for the project's commands; each line can be typed as it stands.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: help install run test test-all test-lowest check bench example

help: ## Show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: ## Make $(VENV) and install the package with its development tools into it
	$(PYTHON) -m venv $(VENV) && $(BIN)/pip install -q -c constraints.txt -e '.[dev]'

run: install ## Fine-tune the embedded model on the embedded data
	$(BIN)/python -m sparselora.run

test: install ## Run the tests
	$(BIN)/python -m pytest

check: install ## Lint, format, types, imports
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: install ## Time the sparse step beside the dense one, interleaved
	$(BIN)/python -m sparselora.bench -m experiment=original,fallback,optimized model=distilbert-random bench.batch_size=32 bench.seq_len=64

example: install ## Make the report under docs/example anew from its runs, and its picture
	$(BIN)/python -m sparselora.report docs/example/runs --out docs/example
	rm -f docs/example/plots/*.png
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1100,1500 --virtual-time-budget=5000 \
	  --screenshot=docs/example/report.png file://$(CURDIR)/docs/example/report.html

test-all: ## Run the tests on each of Python 3.11, 3.12, 3.13 that is there
	@for version in 3.11 3.12 3.13; do \
	  if python$$version --version >/dev/null 2>&1; then \
	    echo "== Python $$version"; \
	    python$$version -m venv .venvs/$$version \
	    && .venvs/$$version/bin/pip install -q -c constraints.txt -e '.[dev]' \
	    && .venvs/$$version/bin/python -m pytest -q || exit 1; \
	  else echo "== Python $$version is not here"; fi; \
	done

LOWEST = .venvs/lowest/bin
QUICK_TESTS = tests/config tests/records tests/report tests/search/space tests/search/study tests/search/test_compat.py \
  tests/sparse/test_patch.py tests/runs/test_repeats.py
TORCH ?= torch

test-lowest: ## Run a quick part of the tests on the lowest versions that pyproject.toml allows (TORCH=torch==2.13.0+cpu picks a build)
	$(PYTHON) -m venv .venvs/lowest && $(LOWEST)/pip install -q uv
	$(LOWEST)/uv pip install -q --python $(LOWEST)/python --resolution lowest-direct -e '.[dev]' '$(TORCH)'
	$(LOWEST)/python -m pytest -q $(QUICK_TESTS)
