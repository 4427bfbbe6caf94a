# One way in for people and for CI. Everything lives in $(VENV), made on first use.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SHELL  := /bin/bash -o pipefail
export JAX_PLATFORMS ?= cpu

# Versions are pinned for Python 3.11. Any other Python gets the newest: that is the smoke tier.
PINS := $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" * (sys.version_info[:2] == (3, 11)))')
PIP   = $(BIN)/python -m pip install -qq --disable-pip-version-check $(PINS)
SELF  = $(PIP) --no-build-isolation --editable
SOURCES := $(foreach part,src pjrt arbiter memsim cuda,$(wildcard xla_plugin/$(part)/*.cc xla_plugin/$(part)/*.h))
NATIVE  := xla_plugin/CMakeLists.txt $(SOURCES)

.NOTPARALLEL:
.PHONY: setup demo test smoke lint format bench soak docs clean

setup: $(VENV)/.bench

$(VENV)/.native: pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}: set PYTHON=")'
	@command -v c++ >/dev/null || { echo "a C++17 compiler named c++ is needed" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "scikit-build-core>=0.10" "pybind11>=2.13" cmake ninja
	@touch $@

# One stamp for each extra, so that nothing is asked of the index twice.
$(VENV)/.bench $(VENV)/.test $(VENV)/.lint $(VENV)/.docs: $(VENV)/.%: $(VENV)/.native
	$(SELF) '.[$*]'
	@touch $@

# What compiles for an H100 without one: files only, never beside the packages JAX looks through.
$(VENV)/.h100: $(VENV)/.test
	rm -rf $(VENV)/h100
	version=$$($(BIN)/python -c 'import jaxlib; print(jaxlib.__version__)') && \
	$(PIP) --no-deps --target $(VENV)/h100 \
	    jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version nvidia-cuda-nvcc-cu12
	@touch $@

# Plugins to wrap in tests, each of another version of the ABI, and a harness for them: files only.
$(VENV)/.pjrt: $(VENV)/.test
	rm -rf $(VENV)/pjrt
	$(PIP) --no-deps --target $(VENV)/pjrt \
	    lammps-jax-pjrt-cpu==0.11.2 xla-cpu-pjrt==0.0.1 jax-cuda13-pjrt==0.12.0.1 pypjrt==0.1.1
	@touch $@

demo: setup
	$(BIN)/python -m benchmarks demo --out out/demo

test: $(VENV)/.test $(VENV)/.h100 $(VENV)/.pjrt
	$(BIN)/python -m pytest

smoke: $(VENV)/.test
	$(BIN)/python -m pytest -m smoke

bench: setup $(VENV)/.pjrt
	for name in overhead colocation link swap density alloc wrapper recover channels granules; do \
	    $(BIN)/python -m benchmarks $$name --quick --json out/bench/$$name.json || exit 1; \
	done
	$(BIN)/python -m benchmarks processes --quick --systems uncontrolled,missile --json out/bench/processes.json
	$(BIN)/python -m benchmarks serving --quick --peers "" --protocols http --json out/bench/serving.json

soak: setup $(VENV)/.test $(VENV)/.pjrt
	$(BIN)/python -m benchmarks soak --json out/bench/soak.json
	$(BIN)/python -m benchmarks swap-soak --json out/bench/swap_soak.json
	$(BIN)/python -m benchmarks store-soak --json out/bench/store_soak.json
	$(BIN)/python -m benchmarks reload-soak --json out/bench/reload_soak.json
	$(BIN)/python -m benchmarks door-soak --json out/bench/door_soak.json
	$(BIN)/python -m benchmarks arbiter-soak --json out/bench/arbiter_soak.json
	$(BIN)/python -m benchmarks fuzz --json out/bench/fuzz.json
	GRANULE_EXAMPLES=1700 $(BIN)/python -m pytest -q tests/memory/test_granules_stateful.py
	PJRT_FUZZ_RUNS=10000000 $(BIN)/python -m pytest -q tests/plugin/test_plugin_native.py -k copies
	$(BIN)/python -m pytest -q tests/plugin/whole_zoo.py
	FUZZ_EXAMPLES=500 $(BIN)/python -m pytest -q tests/server/test_openapi.py

SITE    = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
HEADERS = $(shell $(BIN)/python -c 'import pybind11, sysconfig; \
    print("-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include"))')

lint: $(VENV)/.lint $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	# import-linter reads folders, so it gets one where the parts lie as they are installed: models/
	# is missile_jax.models, and the native module is a module. -S keeps the editable install out.
	rm -rf build/imports && mkdir -p build/imports
	cp -R missile_jax benchmarks build/imports
	cp -R models build/imports/missile_jax
	cp missile_jax/_native.pyi build/imports/missile_jax/_native.py
	cd build/imports && PYTHONPATH=$(SITE) $(abspath $(BIN))/python -S -c \
	    'from importlinter.cli import lint_imports_command as lint; lint()' \
	    --config ../../pyproject.toml
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)
	$(BIN)/clang-tidy --quiet $(filter %.cc,$(SOURCES)) -- -std=c++17 -DMISSILE_VERSION='"lint"' $(HEADERS)

format: $(VENV)/.lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(SOURCES)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist out site .pytest_cache .ruff_cache .hypothesis
