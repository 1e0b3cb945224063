#!/usr/bin/env bash
# A study of 36 tiny cells on a trial cluster: install Slurm if needed, submit, follow, report, clean up.
# Fails if a cell does not finish. Finished cells are not repeated: remove runs/trial to run all again.
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
sys.exit(f"error: {len(unfinished)} cells are not done, first {unfinished[0]}" if unfinished else 0)'
