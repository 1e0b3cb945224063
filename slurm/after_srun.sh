#!/usr/bin/env bash
# Last line of a batch script: after_srun.sh CODE, with the exit code of srun.
#
# Code 130 means that a signal stopped the run after a save: the job is requeued under the same id. So do 138 and 140: USR1
# or USR2 came before Python could handle them, and nothing is lost. Slurm itself requeues a job that it preempts. A
# cancelled job stays cancelled.
set -u
code=$1
# The last array element to start has the id of the whole array, which would requeue all elements.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

case "$code" in 130 | 138 | 140) interrupted=yes ;; *) interrupted= ;; esac
if [ "$interrupted" ] && [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ]; then
  if scontrol requeue "$job"; then
    sleep 60 # Slurm ends this script here
  else
    echo "job $job was not requeued; on a login node run: hpc-jepa study resume" >&2
  fi
fi
exit "$code"
