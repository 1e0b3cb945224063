#!/usr/bin/env bash
# The last line of a batch script: after_srun.sh CODE, with the exit code of srun.
#
# Code 130 means that the run was asked to leave, saved, and wants to go on: the job is queued again, under the same id.
# Slurm does that by itself for a job it preempts, and a job that somebody cancelled stays cancelled.
set -u
code=$1
# The last element of an array to start has the number of the whole array: by that, all elements would be queued again.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

if [ "$code" -eq 130 ] && [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ]; then
  if scontrol requeue "$job"; then
    sleep 60 # Slurm ends this script here
  else
    echo "job $job was not queued again; on a login node: hpc-jepa study resume" >&2
  fi
fi
exit "$code"
