"""How far a cell is: from the files its run writes, and from what Slurm says about its jobs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hpc_jepa.runs.lease import is_expired, read_holder
from hpc_jepa.runs.metrics_log import last_metrics
from hpc_jepa.runs.restarts import read_starts
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState
from hpc_jepa.study.grid import StudyCell
from hpc_jepa.study.job_log import SubmittedJob
from hpc_jepa.study.records import evaluated_on, is_evaluated
from hpc_jepa.study.slurm_cli import JobState
from hpc_jepa.study.task import evaluation_task, last_log_line, training_task

CellState = Literal[
    "not started",
    "refused",
    "queued",
    "running",
    "interrupted",
    "stalled",
    "failed",
    "trained",
    "evaluating",
    "done",
]
UNFINISHED: tuple[CellState, ...] = ("refused", "interrupted", "stalled", "failed", "trained")
"""States that nothing will change by itself, once a cell was submitted."""


@dataclass(frozen=True)
class CellStatus:
    """State of a cell, steps done, what is to be said about it, and the log that says more."""

    state: CellState
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
class CellJobs:
    """What a cluster knows of one cell: its newest jobs, as far as they were submitted and Slurm answers."""

    train: JobState | None = None
    evaluate: JobState | None = None


def jobs_of_cell(
    cell: StudyCell, latest: Mapping[tuple[Path, str], SubmittedJob], queue: Mapping[str, JobState]
) -> CellJobs:
    """The newest jobs of a cell; those that Slurm has forgotten are None."""
    found = [latest.get((cell.folder, kind)) for kind in ("train", "evaluate")]
    return CellJobs(*(queue.get(job.job) if job else None for job in found))


def cell_status(cell: StudyCell, jobs: CellJobs = CellJobs(), refused: str | None = None) -> CellStatus:
    """The standing of a cell. Raises DataError where a file of its run is damaged."""
    state = RunDir(cell.folder).state
    if state is not None and state.state == "done":
        return _trained(cell, state.step or 0, jobs)
    status = _training(cell, state, jobs)
    if refused and status.state not in ("running", "queued"):
        return replace(status, state="refused", note=refused)
    return status


def _trained(cell: StudyCell, step: int, jobs: CellJobs) -> CellStatus:
    """What is known of a cell whose training is done."""
    names = ", ".join(evaluated_on(cell))
    resumptions = _resumptions(cell)
    if is_evaluated(cell):
        return CellStatus("done", step, f"evaluated on {names}" if names else "", resumptions)
    job, log = jobs.evaluate, evaluation_task(cell).log
    if job is not None and job.is_active:
        state: CellState = "queued" if job.is_waiting else "evaluating"
        note = f"evaluation: {job.reason.lower()}" if job.is_waiting else f"on {job.nodes}"
        return CellStatus(state, step, note, resumptions, log=log)
    if job is not None:
        return CellStatus(
            "failed", step, f"evaluation: {last_log_line(log) or job.state.lower()}", resumptions, log=log
        )
    return CellStatus("trained", step, f"evaluated on {names}" if names else "not evaluated yet", resumptions)


def _training(cell: StudyCell, state: RunState | None, jobs: CellJobs) -> CellStatus:
    """What is known of a cell that is not trained yet."""
    job, log = jobs.train, training_task(cell).log
    step, note, left = _figures(cell, state)
    resumptions = _resumptions(cell)
    status = CellStatus("not started", step, "", resumptions, log=log if log.exists() else None)
    if job is not None and job.is_waiting:
        return replace(status, state="queued", note=job.reason.lower())
    if job is not None and job.is_active:
        starting = state is None or state.state != "running"
        return replace(
            status, state="running", note=f"starting on {job.nodes}" if starting else note, seconds_left=left
        )
    if state is None:
        return (
            replace(status, state="failed", note=last_log_line(log) or job.state.lower()) if job is not None else status
        )
    if state.state == "running":
        return _said_to_run(cell, replace(status, note=note, seconds_left=left), jobs)
    reason = f"by {state.stopped_by}" if state.stopped_by else ""
    return replace(status, state=state.state, note=state.error or reason)


def _said_to_run(cell: StudyCell, status: CellStatus, jobs: CellJobs) -> CellStatus:
    """A run whose state file says that it runs, though no job of ours does: by hand, or it was killed."""
    run = RunDir(cell.folder)
    if jobs.train is None and read_holder(run) is not None and not is_expired(run):
        return replace(status, state="running")
    ended = f"job {jobs.train.state.lower()}" if jobs.train else "it ended without a word"
    return replace(status, state="stalled", note=ended, seconds_left=None)


def _figures(cell: StudyCell, state: RunState | None) -> tuple[int, str, float | None]:
    """Steps done, speed in words, seconds left."""
    metrics = last_metrics(RunDir(cell.folder).metrics_file)
    saved = (state.step if state else None) or 0
    if metrics is None:
        return saved, "", None
    speed, step = metrics.clips_per_second, max(metrics.step + 1, saved)
    if not speed:
        return step, f"loss {metrics.loss:.3f}", None
    left = (cell.config.schedule.steps - step) * cell.config.engine.batch_size / speed
    return step, f"loss {metrics.loss:.3f}  {speed:.0f} clips/s", left


def _resumptions(cell: StudyCell) -> int:
    return max(len(read_starts(RunDir(cell.folder))) - 1, 0)
