# `make help` lists the targets. PYTHON picks the interpreter that makes the virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# what the demo needs, without developers' tools
BASIC := $(VENV)/.basic
# the tests with the lowest versions run on the lowest Python, where it is there
LOWEST_PYTHON ?= $(shell python3.10 --version > /dev/null 2>&1 && echo python3.10 || echo $(PYTHON))
LOWEST := .venv-lowest
# a warning is an error; both builds read the pages once
SPHINX := $(BIN)/python -m sphinx -W --keep-going -q -d docs/_build/doctrees
# where MSRC v2 lies, the folder that holds VOCdevkit, and VOC's class vectors
DATA ?= data/msrc
VOC ?= data
VECTORS ?= vectors/voc.npz
# the paper's: voc, context or coco_stuff; and further options of its script or of the runs
DATASET ?= voc
OPTIONS ?=
export NOTEBOOKS ?= on
ON ?= gpu

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-reliability test-gpu test-lowest coverage mutants table1-msrc table1-voc13 ablations-msrc ablations-voc13 paper lint type format bench bench-gpu docs clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## make .venv in the project and install everything that the README's commands need

$(READY): EXTRAS := dev
$(BASIC): EXTRAS := lite,demo
$(READY) $(BASIC): setup.cfg pyproject.toml
	@echo "installing into $(VENV), with the extras $(EXTRAS); with CUDA, torch takes several gigabytes: some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(if $(wildcard $(READY)),$(READY),$(BASIC))  ## train all steps on the built-in data, print the GZSL table, write pictures (about 5 minutes on two cores)
	$(BIN)/sign-zs3 fit --config experiments/quickstart.yaml

test: setup  ## run the tests
	$(BIN)/python -m pytest

test-slow: setup  ## run the longer checks: the demo with right and with shuffled class vectors, torch.compile, a killed make paper, bench-gpu in small (about 12 minutes)
	$(BIN)/python -m pytest -m slow

test-reliability: setup  ## run the long checks of docs/reliability.md: kills, several processes, fuzzing, 20,000 iterations (long)
	$(BIN)/python -m pytest -m reliability

test-gpu: setup  ## run the checks that need a GPU, or two (ON=cpu tries the tests themselves without one)
	ON=$(ON) $(BIN)/python -m pytest -m gpu -n0 tests/gpu

test-lowest: $(LOWEST)/.ready  ## run the tests in .venv-lowest, with the lowest versions that setup.cfg allows
	$(LOWEST)/bin/python -m pytest

# pip always takes the newest, so uv installs
$(LOWEST)/.ready: setup.cfg pyproject.toml
	test -x $(LOWEST)/bin/python || $(LOWEST_PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	@touch $@

coverage: setup  ## run the tests and report lines and branches of src; fails under 90 % of either
	$(BIN)/coverage erase
	$(BIN)/python -m pytest --cov --cov-report=
	$(BIN)/coverage report
	$(BIN)/coverage json --quiet
	$(BIN)/python tests/shares.py coverage.json 0.90 covered_lines/num_statements covered_branches/num_branches

mutants: setup  ## break functional/ and metrics.py in 1100 places; fails if tests see under 85 %
	rm -rf mutants
	$(BIN)/mutmut run
	$(BIN)/mutmut results
	$(BIN)/mutmut export-cicd-stats
	$(BIN)/python tests/shares.py mutants/mutmut-cicd-stats.json 0.85 killed/total

table1-msrc: setup  ## Table 1 on MSRC-21 with three seeds (DATA=folder of MSRC v2; about 25 minutes on two cores)
	$(BIN)/python experiments/tables.py table1 --data $(DATA)

table1-voc13: setup  ## Table 1 on 13 classes of VOC, three seeds (VOC=folder of VOCdevkit, VECTORS=voc.npz)
	$(BIN)/python experiments/tables.py table1 --dataset voc13 --data $(VOC) --model.vectors $(VECTORS)

ablations-msrc: setup  ## Tables 2 to 4 and Figure 5 on MSRC-21 (about an hour on two cores)
	$(BIN)/python experiments/tables.py ablations --data $(DATA)

ablations-voc13: setup  ## Tables 2 to 4 on thirteen classes of VOC (about an hour and a half; VOC=folder VECTORS=voc.npz)
	$(BIN)/python experiments/tables.py ablations --dataset voc13 --data $(VOC) --model.vectors $(VECTORS)

paper: setup  ## Table 1 at the paper's scale on all GPUs, goes on when given again (DATA=folder DATASET=voc, context or coco_stuff, OPTIONS=--plan)
	$(BIN)/python experiments/paper.py --dataset $(DATASET) --data $(or $(filter-out data/msrc,$(DATA)),data) $(OPTIONS)

lint: setup  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## check types
	$(BIN)/mypy

format: setup  ## fix style where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## measure speed and memory: ratios beside their goals and the stored baseline
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks

bench-gpu: setup  ## on a machine with a GPU: measure speed, memory and use of it into benchmarks/gpu.json (half an hour)
	$(BIN)/python -m benchmarks.gpu --store benchmarks/gpu.json

docs: $(VENV)/.ready-docs  ## build docs/_build/html, run the examples, check the links (NOTEBOOKS=off: do not run the notebooks)
	$(BIN)/python -m docs.generate
	rm -rf docs/_build
	$(SPHINX) -b html docs docs/_build/html
	$(SPHINX) -b doctest docs docs/_build/doctest
	$(BIN)/python -m docs.check docs/_build/html

$(VENV)/.ready-docs: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	@touch $@

clean:  ## remove the virtual environment and caches; runs/ stays
	rm -rf $(VENV) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache build dist src/*.egg-info mutants .coverage .coverage.* coverage.json htmlcov docs/_build docs/_generated docs/notebooks
