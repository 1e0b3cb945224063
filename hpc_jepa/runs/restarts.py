"""``log/starts.jsonl``: every start of a run, so that a job which makes no progress is not requeued for ever."""

import os
import time

from pydantic import BaseModel

from hpc_jepa.errors import HpcJepaError
from hpc_jepa.io.jsonl import append_jsonl, read_jsonl
from hpc_jepa.runs.run_dir import RunDir

MAX_RESTARTS_WITHOUT_PROGRESS = 3
"""Consecutive starts of one Slurm job from the same step before the next one is refused."""


class Start(BaseModel):
    """One start: when, in which Slurm job, after how many steps."""

    time: float
    job: str | None
    step: int


def record_start(run: RunDir, step: int) -> None:
    """Append a start after ``step`` steps.

    Raises HpcJepaError if this Slurm job has already started ``MAX_RESTARTS_WITHOUT_PROGRESS`` times in a row from the
    same step.
    """
    job = os.environ.get("SLURM_JOB_ID")
    recent = [(start.job, start.step) for start in read_starts(run)[-MAX_RESTARTS_WITHOUT_PROGRESS:]]
    if job is not None and recent == [(job, step)] * MAX_RESTARTS_WITHOUT_PROGRESS:
        raise HpcJepaError(
            f"{run}: job {job} started {MAX_RESTARTS_WITHOUT_PROGRESS} times after step {step} without saving again; "
            f"see {run.log_dir}, raise the time limit or lower checkpoint.every, then 'hpc-jepa study resume'"
        )
    run.log_dir.mkdir(exist_ok=True)
    append_jsonl(run.starts_file, Start(time=time.time(), job=job, step=step))


def read_starts(run: RunDir) -> list[Start]:
    """All starts, oldest first. Raises DataError naming a damaged line."""
    return read_jsonl(run.starts_file, Start, "delete the line")
