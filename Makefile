# One command each; `make setup` makes a virtual environment in .venv with everything for the CPU,
# or for the GPU: EXTRA=cuda12 or cuda13. The others keep to what is there.
PYTHON ?= python3
EXTRA ?= $(or $(patsubst .venv/ready-%,%,$(firstword $(wildcard .venv/ready-*))),cpu)
BIN := .venv/bin

.PHONY: setup demo docs dist tables check-gpu test test-slow campaign lint

setup: .venv/ready-$(EXTRA) $(if $(filter Linux,$(shell uname)),.venv/gpu-check)

.venv/ready-$(EXTRA): pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --editable ".[$(EXTRA),torch,dev]"
	touch $@

# JAX's CUDA plugin, which compiles for a GPU where there is none. It lies outside the environment's
# packages, where JAX would load it into every program and report that CUDA's libraries are missing.
.venv/gpu-check: .venv/ready-$(EXTRA)
	version=$$($(BIN)/python -c "import jax; print(jax.__version__)") && \
	$(BIN)/pip install --quiet --no-deps --target $@ "nvidia-cuda-nvcc>=13,<14" \
	  jax-cuda13-plugin==$$version jax-cuda13-pjrt==$$version
	touch $@

demo: setup
	$(BIN)/python tools/demo/prepare_demo.py build/demo
	$(BIN)/jaxdistill train --config demo $(if $(wildcard runs/demo/config.yaml),--resume)
	$(BIN)/python tools/demo/make_page.py runs/demo build/demo

# The documentation site, in build/site; a broken link or a public name without a docstring is an error
docs: setup .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/docs-ready: pyproject.toml .venv/ready-$(EXTRA)
	$(BIN)/pip install --quiet --editable ".[$(EXTRA),docs]"
	touch $@

# Wheel and source distribution, in dist/
dist: setup
	$(BIN)/pip install --quiet "build>=1.2" "twine>=6"
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# Makes the documents' tables again: make tables lists them; TABLES="distillation longer" DATA=FOLDER
tables: setup
	$(BIN)/python tools/reproduce.py $(TABLES) $(if $(DATA),--data "$(DATA)")

# Measures the project on this machine's GPU: make check-gpu EXTRA=cuda13
check-gpu: setup
	$(BIN)/python tools/benchmarks/gpu/pack.py build/gpu_check
	$(BIN)/python tools/benchmarks/gpu/check.py --kit build/gpu_check/kit
	$(BIN)/python tools/benchmarks/gpu/tables.py build/gpu_check/results/results.jsonl

test: setup
	$(BIN)/pytest -m "not slow and not campaign" -n 2 --dist loadfile

test-slow: setup
	$(BIN)/pytest -m "slow and not campaign" -n 2 --dist loadfile

campaign: setup
	$(BIN)/pytest -m campaign

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
