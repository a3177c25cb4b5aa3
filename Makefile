# Two commands do everything on a machine with Python and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test test-all lint core bench bench-all validate clean

RUNS ?= 5
COMPARE = $(BIN)/python benchmarks/compare.py

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/study  ## Merge real experts with five methods, score every merge, write one report
	$(BIN)/mergewise demo demo-out

test: $(VENV)/dev  ## The tests that every change must pass
	$(BIN)/python -m pytest -n 2 -m "not slow and not oracle and not zoo"

test-all: $(VENV)/dev $(VENV)-mergekit/ready $(VENV)-fusionbench/ready  ## All tests: also slow ones, the zoo, and the oracles
	MERGEWISE_MERGEKIT=$(VENV)-mergekit/bin/mergekit-yaml MERGEWISE_FUSIONBENCH=$(VENV)-fusionbench/bin/python $(BIN)/python -m pytest -n 2

lint: $(VENV)/dev  ## Style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

core: $(VENV)-core/ready  ## Install the core alone, without torch, and merge with it
	$(VENV)-core/bin/python tests/core_alone.py

bench: $(VENV)/dev $(VENV)-mergekit/ready $(VENV)-sd-mecha/ready  ## Measure kernels, a 405B plan, and merges of 320M: about half an hour, 6 GB
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/adapters.py
	$(COMPARE) floor --runs $(RUNS) --methods linear,ties
	$(COMPARE) scaling --runs $(RUNS) --axes threads --methods linear,ties
	$(COMPARE) memory --runs 1 --larger 320M --size 80M --methods linear,ties
	$(COMPARE) peers --runs $(RUNS) --methods linear,task_arithmetic,slerp,model_stock
	$(COMPARE) peers --runs 1 --methods dare_ties,ties
	@echo "'make bench-all' measures all methods and large models, 'python benchmarks/compare.py --help' what you choose."

bench-all: $(VENV)/dev $(VENV)-mergekit/ready $(VENV)-sd-mecha/ready  ## Measure everything in docs/benchmarks.md and write that page: hours, 27 GB, as root
	$(COMPARE) floor --runs $(RUNS) --size 1.3B
	$(COMPARE) floor --runs $(RUNS) --size 1.3B --cold
	$(COMPARE) first --runs $(RUNS) --methods linear,model_stock,ties,della
	$(COMPARE) scaling --runs $(RUNS) --methods linear,ties,dare_ties,model_stock
	$(COMPARE) memory --runs $(RUNS)
	$(COMPARE) kill --methods linear,ties,dare_ties,model_stock
	$(COMPARE) peers --runs $(RUNS)
	$(COMPARE) options --runs 3 --methods linear
	$(BIN)/python benchmarks/report.py

validate: $(VENV)/study  ## Compare what limits says with what merges are worth, and write docs/validation.md; merges are kept
	$(BIN)/python benchmarks/validate.py --write docs

clean:  ## Remove the virtual environments and what the tools left
	rm -rf $(VENV) $(VENV)-core $(VENV)-mergekit $(VENV)-sd-mecha $(VENV)-fusionbench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo-out

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# pip compiles what it copies, but not what it installs as editable: without bytecode a command starts a third slower
$(VENV)/study: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[study]'
	$(BIN)/python -m compileall -q src
	touch $@

$(VENV)/dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	$(BIN)/python -m compileall -q src
	touch $@ $(VENV)/study

$(VENV)-core/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-core
	$(VENV)-core/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt .
	touch $@

$(VENV)-mergekit/ready: constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-mergekit
	$(VENV)-mergekit/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'mergekit==0.1.5'
	touch $@

$(VENV)-fusionbench/ready: constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-fusionbench
	$(VENV)-fusionbench/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'fusion-bench==0.2.33'
	touch $@

$(VENV)-sd-mecha/ready: constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-sd-mecha
	$(VENV)-sd-mecha/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'sd-mecha==1.1.8'
	touch $@
