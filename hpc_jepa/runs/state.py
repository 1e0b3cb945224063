"""What a run says about itself, for whoever asks from outside: ``state.json``, and ``log/starts.jsonl``."""

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

from hpc_jepa.errors import DataError, HpcJepaError
from hpc_jepa.io.atomic import write_atomically

RunStatus = Literal["running", "done", "interrupted", "failed"]

MAX_RESTARTS_WITHOUT_PROGRESS = 3
"""Starts of one job in a row that may end where they began."""


def write_state(run: Path, state: RunStatus, step: int, steps: int, **more: Any) -> None:
    """Replace ``state.json``: what ``study status`` reads."""
    record = {"state": state, "step": step, "steps": steps, "time": time.time(), "process": os.getpid(), **more}
    write_atomically(run / "state.json", json.dumps(record, indent=1).encode())


def read_state(run: Path) -> dict[str, Any] | None:
    """The last written state, or None where no run was started. Raises DataError where the file is damaged."""
    path = run / "state.json"
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); delete it, the next 'hpc-jepa train' writes it anew") from error
    return state


def record_start(run: Path, step: int) -> None:
    """Another start, after ``step`` steps. A job may start as often as it likes, as long as steps are done in between.

    Raises HpcJepaError when the job has started ``MAX_RESTARTS_WITHOUT_PROGRESS`` times in a row from this very step.
    """
    job = os.environ.get("SLURM_JOB_ID")
    earlier = [(start["job"], start["step"]) for start in read_starts(run)[-MAX_RESTARTS_WITHOUT_PROGRESS:]]
    if job is not None and earlier == [(job, step)] * MAX_RESTARTS_WITHOUT_PROGRESS:
        raise HpcJepaError(
            f"{run}: job {job} started {MAX_RESTARTS_WITHOUT_PROGRESS} times after step {step} "
            f"and saved nothing further; see "
            f"{run / 'log'}, ask for more time or a smaller checkpoint.every, then 'hpc-jepa study resume'"
        )
    path = _starts_path(run)
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), "job": job, "step": step}) + "\n")


def read_starts(run: Path) -> list[dict[str, Any]]:
    """All starts of a run, oldest first; a line cut short by a kill counts for nothing."""
    path = _starts_path(run)
    if not path.exists():
        return []
    complete = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in complete if line.endswith("}\n")]


def _starts_path(run: Path) -> Path:
    return run / "log" / "starts.jsonl"
