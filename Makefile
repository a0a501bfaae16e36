# One command each; `make setup` makes a virtual environment in .venv with everything for the CPU.
PYTHON ?= python3
EXTRA ?= cpu
BIN := .venv/bin

.PHONY: setup test test-all lint

setup: .venv/ready-$(EXTRA)

.venv/ready-$(EXTRA): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[$(EXTRA),torch,dev]"
	touch $@

test: setup
	$(BIN)/pytest -m "not slow"

test-all: setup
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
