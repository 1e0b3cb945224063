#!/usr/bin/env bash
# A tiny grid of 36 cells on a trial cluster: installs Slurm if need be, submits, follows, reports, cleans up.
# Fails when a cell did not come to its end. What is done stays done: remove runs/trial to see it all again.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH:/usr/sbin

if ! hash slurmctld munged sbatch 2>/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
fi
hpc-jepa shards build motion8 --size 32 --frames 16 --train 24 --test 16 --unlabelled 32 --out shards/trial

slurm/trial_cluster.sh up
trap 'slurm/trial_cluster.sh down' EXIT
eval "$(slurm/trial_cluster.sh env)"

hpc-jepa study submit trial --cluster trial
hpc-jepa study status trial --watch
hpc-jepa study report trial
hpc-jepa study status trial --json | python -c '
import json, sys
unfinished = [cell["folder"] for cell in json.load(sys.stdin) if cell["state"] != "done"]
sys.exit(f"error: {len(unfinished)} cells are not done, {unfinished[0]} for one" if unfinished else 0)'
