# `make demo` and `make test` set up everything they need in .venv, in this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIP ?= $(firstword $(wildcard tests/clips/*.flac))

MINUTES ?= 5
NICE ?= 0
.PHONY: demo test fuzz soak lint setup clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python tools/demo.py $(CLIP) --output demo_output

test: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# Damaged files for every reader; commands under kills and full disks. Both say what they found.
fuzz: setup
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --nice $(NICE)

soak: setup
	$(BIN)/python tools/soak.py --minutes $(MINUTES) --nice $(NICE)

lint: setup
	$(BIN)/ruff check src tests benchmarks tools experiments examples integrations
	$(BIN)/ruff format --check src tests benchmarks tools experiments examples integrations

clean:
	rm -rf $(VENV) demo_output fuzz_faults
