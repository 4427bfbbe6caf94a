# One way in for people and for CI. Everything lives in .venv/, made on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export JAX_PLATFORMS ?= cpu

.PHONY: setup demo test smoke lint format bench soak docs clean

$(VENV)/.bench: pyproject.toml constraints.txt $(wildcard xla_plugin/*.txt xla_plugin/src/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt "scikit-build-core>=0.10" "pybind11>=2.13" cmake ninja
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[bench]'
	touch $@

$(VENV)/.test: $(VENV)/.bench
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[test]'
	$(BIN)/python -m tools.h100_compiler
	touch $@

$(VENV)/.lint: $(VENV)/.bench
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[lint]'
	touch $@

setup: $(VENV)/.bench

demo: setup
	$(BIN)/python -m benchmarks demo --out out/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

smoke: $(VENV)/.test
	$(BIN)/python -m pytest -m smoke

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror xla_plugin/src/*

format: $(VENV)/.lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i xla_plugin/src/*

clean:
	rm -rf $(VENV) build dist out .pytest_cache .ruff_cache .hypothesis site
