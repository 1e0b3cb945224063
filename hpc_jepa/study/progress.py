"""How far a cell is: from the files its run writes, and from what Slurm says about its jobs."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hpc_jepa.study.grid import Cell
from hpc_jepa.study.ledger import Job
from hpc_jepa.study.queue import Queued
from hpc_jepa.study.records import evaluated_on, is_evaluated
from hpc_jepa.study.task import evaluating, last_words, training
from hpc_jepa.training.lease import holder, is_silent
from hpc_jepa.training.run_state import read_state, starts

TAIL = 8192  # bytes: more than the longest line of metrics.jsonl

State = Literal[
    "not started",
    "refused",
    "queued",
    "running",
    "interrupted",
    "stands still",
    "failed",
    "trained",
    "evaluating",
    "done",
]
UNFINISHED: tuple[State, ...] = ("refused", "interrupted", "stands still", "failed", "trained")
"""States that nothing will change by itself, once a cell was submitted."""


@dataclass(frozen=True)
class Standing:
    """State of a cell, steps done, what is to be said about it, and the log that says more."""

    state: State
    step: int
    note: str = ""
    resumptions: int = 0
    seconds_left: float | None = None
    log: Path | None = None

    @property
    def words(self) -> str:
        """State and note; figures speak for a running cell."""
        return self.note if self.state == "running" and self.note else f"{self.state}  {self.note}".strip()


@dataclass(frozen=True)
class Jobs:
    """What a cluster knows of one cell: its newest jobs, as far as they were submitted and Slurm answers."""

    train: Queued | None = None
    evaluate: Queued | None = None


def jobs_of(cell: Cell, latest: Mapping[tuple[Path, str], Job], queue: Mapping[str, Queued]) -> Jobs:
    """The newest jobs of a cell; those that Slurm has forgotten are None."""
    found = [latest.get((cell.folder, kind)) for kind in ("train", "evaluate")]
    return Jobs(*(queue.get(job.job) if job else None for job in found))


def standing(cell: Cell, jobs: Jobs = Jobs(), refused: str | None = None) -> Standing:
    """The standing of a cell. Raises DataError where a file of its run is damaged."""
    state = read_state(cell.folder)
    if state is not None and state["state"] == "done":
        return _trained(cell, state["step"], jobs)
    how = _training(cell, state, jobs)
    if refused and how.state not in ("running", "queued"):
        return replace(how, state="refused", note=refused)
    return how


def _trained(cell: Cell, step: int, jobs: Jobs) -> Standing:
    """What is known of a cell whose training is done."""
    names = ", ".join(evaluated_on(cell))
    resumptions = _resumptions(cell)
    if is_evaluated(cell):
        return Standing("done", step, f"evaluated on {names}" if names else "", resumptions)
    job, log = jobs.evaluate, evaluating(cell).log
    if job is not None and job.alive:
        state: State = "queued" if job.waits else "evaluating"
        note = f"evaluation: {job.reason.lower()}" if job.waits else f"on {job.nodes}"
        return Standing(state, step, note, resumptions, log=log)
    if job is not None:
        return Standing("failed", step, f"evaluation: {last_words(log) or job.state.lower()}", resumptions, log=log)
    return Standing("trained", step, f"evaluated on {names}" if names else "not evaluated yet", resumptions)


def _training(cell: Cell, state: dict[str, Any] | None, jobs: Jobs) -> Standing:
    """What is known of a cell that is not trained yet."""
    job, log = jobs.train, training(cell).log
    step, note, left = _figures(cell, state)
    resumptions = _resumptions(cell)
    how = Standing("not started", step, "", resumptions, log=log if log.exists() else None)
    if job is not None and job.waits:
        return replace(how, state="queued", note=job.reason.lower())
    if job is not None and job.alive:
        starting = state is None or state["state"] != "running"
        return replace(how, state="running", note=f"starting on {job.nodes}" if starting else note, seconds_left=left)
    if state is None:
        return replace(how, state="failed", note=last_words(log) or job.state.lower()) if job is not None else how
    if state["state"] == "running":
        return _said_to_run(cell, replace(how, note=note, seconds_left=left), jobs)
    reason = f"by {state['by']}" if state.get("by") else ""
    return replace(how, state=state["state"], note=state.get("error", reason))


def _said_to_run(cell: Cell, how: Standing, jobs: Jobs) -> Standing:
    """A run whose state file says that it runs, though no job of ours does: by hand, or it was killed."""
    held = holder(cell.folder)
    if jobs.train is None and held is not None and not is_silent(cell.folder):
        return replace(how, state="running")
    ended = f"job {jobs.train.state.lower()}" if jobs.train else "it ended without a word"
    return replace(how, state="stands still", note=ended, seconds_left=None)


def _figures(cell: Cell, state: dict[str, Any] | None) -> tuple[int, str, float | None]:
    """Steps done, speed in words, seconds left."""
    figures = last_figures(cell.folder)
    saved = max(state["step"], 0) if state else 0
    if figures is None:
        return saved, "", None
    speed, step = figures["clips_per_second"], max(figures["step"] + 1, saved)
    left = (cell.config.schedule.steps - step) * cell.config.engine.batch_size / speed
    return step, f"loss {figures['loss']:.3f}  {speed:.0f} clips/s", left


def _resumptions(cell: Cell) -> int:
    return max(len(starts(cell.folder)) - 1, 0)


def last_figures(run: Path) -> dict[str, Any] | None:
    """The last line of ``metrics.jsonl``; None where nothing was logged."""
    line = _last_line(run / "metrics.jsonl")
    figures: dict[str, Any] | None = json.loads(line) if line else None
    return figures


def _last_line(path: Path) -> str | None:
    """The last complete line of a file that may be growing."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL, 0), os.SEEK_SET)
        lines = file.read().split(b"\n")[:-1]
    return lines[-1].decode() if lines else None
