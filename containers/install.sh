#!/usr/bin/env bash
# Install hpc_jepa into a Debian image: containers/install.sh cpu|cuda12|cuda13, run by both definitions in this folder.
#
# The CUDA libraries come with the wheels of PyTorch and DALI, and the driver from the host. gcc and the headers of Python
# stay in the image: Triton needs them at the first kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=$1
constraints=constraints.txt
if [[ $extra == cuda12 ]]; then constraints=constraints-cuda12.txt; fi

apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
  ca-certificates gcc libc6-dev python3 python3-dev python3-venv
rm -rf /var/lib/apt/lists/*

python3 -m venv /opt/hpc_jepa
pip=(/opt/hpc_jepa/bin/pip --quiet --no-cache-dir --disable-pip-version-check)
"${pip[@]}" install --constraint "$constraints" torch # alone, as in the Makefile
"${pip[@]}" install --constraint "$constraints" ".[$extra,slurm,remote]"
rm -rf "$PWD"
