"""Status of a study and of each cell, from the files of its runs and the Slurm state of its jobs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hpc_jepa.errors import DataError, HpcJepaError
from hpc_jepa.runs.evaluations import read_summary
from hpc_jepa.runs.lease import is_expired, read_holder
from hpc_jepa.runs.metrics_log import last_metrics
from hpc_jepa.runs.restarts import read_starts
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.runs.state import RunState
from hpc_jepa.study.cell import CellEvaluation, StudyCell
from hpc_jepa.study.job_log import CellJobs, JobLog, JobQueue, fetch_job_queue, newest
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
    "damaged",
    "not needed",
]
UNFINISHED: tuple[CellState, ...] = ("refused", "interrupted", "stalled", "failed", "trained")
"""States of a submitted cell that need a new submission; no job of the cell is waiting or running."""

NO_JOBS = CellJobs()
OTHER_SETTINGS = "other settings"
"""What a record lacks that was made under other settings of its protocol."""


@dataclass(frozen=True)
class CellStatus:
    """State of a cell, completed steps, a note, restarts of its training, estimated seconds left, and its log file."""

    state: CellState
    step: int
    note: str = ""
    resumptions: int = 0
    seconds_left: float | None = None
    log: Path | None = None

    @property
    def summary(self) -> str:
        """State and note; of a running cell the note alone, which holds its metrics."""
        return self.note if self.state == "running" and self.note else f"{self.state}  {self.note}".strip()


@dataclass(frozen=True)
class StudyStatus:
    """All cells with their status. ``warning``: damaged lists, and why Slurm states are missing, else empty."""

    cells: Sequence[StudyCell]
    statuses: Sequence[CellStatus]
    warning: str

    @property
    def unfinished(self) -> list[StudyCell]:
        """Cells that stay as they are until they are submitted again."""
        pairs = zip(self.cells, self.statuses, strict=True)
        return [cell for cell, status in pairs if status.state in UNFINISHED]


def read_study_status(cells: Sequence[StudyCell], study: StudyDir) -> StudyStatus:
    """Status of all cells of the study folder. If Slurm does not answer, the status comes from run files alone.

    Damaged lines of the list of jobs are left out, with a warning.
    """
    job_log = JobLog(study, cells)
    jobs, damaged = job_log.sound_jobs()
    warnings = [damaged]
    try:
        queue = fetch_job_queue(jobs)
    except HpcJepaError as error:
        queue = JobQueue(newest(jobs), {})
        warnings.append(f"{error}; status from run files only")
    refused: dict[str, str] = {}
    try:
        refused = job_log.refused()
    except DataError as error:
        warnings.append(str(error))
    statuses = [status_or_damaged(cell, queue.jobs(cell), refused.get(str(cell.folder))) for cell in cells]
    if study.looks_file.exists():
        statuses, damaged = _without_stopped(cells, statuses, study)
        warnings.append(damaged)
    return StudyStatus(cells, statuses, "\n".join(filter(None, warnings)))


def cell_status(cell: StudyCell, jobs: CellJobs = NO_JOBS, refused: str | None = None) -> CellStatus:
    """Status of one cell. Raises DataError if a file of its run is damaged."""
    state = cell.run.state
    if state is not None and cell.is_trained:
        return _evaluation_status(cell, state.step or 0, jobs)
    status = _training_status(cell, state, jobs)
    if refused and status.state not in ("running", "queued"):
        return replace(status, state="refused", note=refused)
    return status


def is_evaluated(cell: StudyCell) -> bool:
    """Whether every evaluation has a record of the last step and of the current benchmark protocol."""
    return all(_has_record(cell, evaluation) for evaluation in cell.evaluations)


def is_only_evaluated(cell: StudyCell) -> bool:
    """Whether it is a trained run of another study. One with a damaged state is not: its status names the damage."""
    try:
        return cell.reused and cell.is_trained
    except DataError:
        return False


def has_records(cell: StudyCell) -> bool:
    """Like ``is_evaluated``; a damaged record counts as missing."""
    return all(_is_done(cell, evaluation) for evaluation in cell.evaluations)


def evaluations_as_json(cell: StudyCell) -> list[dict[str, Any]]:
    """The evaluations of a cell and whether each is done, for scripts."""
    return [{**each.facts, "done": _is_done(cell, each)} for each in cell.evaluations]


def _is_done(cell: StudyCell, evaluation: CellEvaluation) -> bool:
    """Whether a record is there and current; a damaged one is not."""
    try:
        return _has_record(cell, evaluation)
    except (DataError, OSError):
        return False


def _without_stopped(
    cells: Sequence[StudyCell], statuses: Sequence[CellStatus], study: StudyDir
) -> tuple[list[CellStatus], str]:
    """Cells that a look of a sequential study stopped are not needed. Also one line if its record is damaged."""
    from hpc_jepa.study.looks_file import not_needed, read_looks  # imports scipy: only sequential studies wait for it

    try:
        looks = read_looks(study)
    except DataError as error:
        return list(statuses), str(error)
    if looks is None:
        return list(statuses), ""
    reason = not_needed(looks)
    changed = []
    for cell, status in zip(cells, statuses, strict=True):
        why = reason(cell.arm, cell.config.seed) if status.state in ("not started", "interrupted", "refused") else ""
        changed.append(replace(status, state="not needed", note=why) if why else status)
    return changed, ""


def status_or_damaged(cell: StudyCell, jobs: CellJobs = NO_JOBS, refused: str | None = None) -> CellStatus:
    """Like ``cell_status``. A damaged file of one run must not hide the status of the others."""
    try:
        return cell_status(cell, jobs, refused)
    except DataError as error:
        return CellStatus("damaged", 0, str(error))
    except OSError as error:  # a folder or a lease that may not be read
        return CellStatus("damaged", 0, f"{error.filename}: cannot be read ({error.strerror})")


def _evaluation_status(cell: StudyCell, step: int, jobs: CellJobs) -> CellStatus:
    """Status of a cell whose training is done."""
    complete = [evaluation for evaluation in cell.evaluations if _has_record(cell, evaluation)]
    names = ", ".join(map(str, complete))
    missing = ", ".join(str(evaluation) for evaluation in cell.evaluations if evaluation not in complete)
    evaluated = f"evaluated on {names}{f', not on {missing}' if missing else ''}" if names else ""
    if names and cell.until is not None:
        evaluated += f" after {cell.until:,} of {cell.config.schedule.steps:,} steps, for the looks"
    status = CellStatus("trained", step, evaluated or "not evaluated yet", _restarts(cell))
    if len(complete) == len(cell.evaluations):
        return replace(status, state="done", note=evaluated)
    job, log = jobs.evaluate, evaluation_task(cell).log
    if job is None:
        return status
    if job.is_waiting:
        return replace(status, state="queued", note=f"evaluation: {job.reason.lower()}", log=log)
    if job.is_active:
        return replace(status, state="evaluating", note=f"on {job.nodes}", log=log)
    return replace(status, state="failed", note=f"evaluation: {last_log_line(log) or job.state.lower()}", log=log)


def _training_status(cell: StudyCell, state: RunState | None, jobs: CellJobs) -> CellStatus:
    """Status of a cell whose training is not done."""
    job, log = jobs.train, training_task(cell).log
    step, note, left = _progress(cell, state)
    waits = f"after {cell.after.parent.name}" if cell.after is not None and cell.waits else ""
    status = CellStatus("not started", step, waits, _restarts(cell), log=log if log.exists() else None)
    if job is not None and job.is_waiting:
        return replace(status, state="queued", note=job.reason.lower())
    if job is not None and job.is_active:
        started = state is not None and state.state == "running"
        return replace(status, state="running", note=note if started else f"starting on {job.nodes}", seconds_left=left)
    if state is None:
        return replace(status, state="failed", note=last_log_line(log) or job.state.lower()) if job else status
    if state.state == "running":
        return _without_job(cell, replace(status, note=note, seconds_left=left), jobs)
    reason = f"by {state.stopped_by}" if state.stopped_by else ""
    return replace(status, state=state.state, note=state.error or reason)


def _without_job(cell: StudyCell, status: CellStatus, jobs: CellJobs) -> CellStatus:
    """Status of a run whose state file says "running" without an active job: started by hand, or killed."""
    if jobs.train is None and read_holder(cell.run) is not None and not is_expired(cell.run):
        return replace(status, state="running")
    ended = f"job {jobs.train.state.lower()}" if jobs.train else "killed, or its node is down"
    return replace(status, state="stalled", note=ended, seconds_left=None)


def _progress(cell: StudyCell, state: RunState | None) -> tuple[int, str, float | None]:
    """Completed steps, loss and speed as text, seconds left."""
    metrics = last_metrics(cell.run.metrics_file)
    saved = (state.step if state else None) or 0
    if metrics is None:
        return saved, "", None
    speed, step = metrics.clips_per_second, max(metrics.step + 1, saved)
    if not speed:
        return step, f"loss {metrics.loss:.3f}", None
    left = (cell.steps - step) * cell.config.engine.batch_size / speed
    return step, f"loss {metrics.loss:.3f}  {speed:.0f} clips/s", left


def _restarts(cell: StudyCell) -> int:
    return max(len(read_starts(cell.run)) - 1, 0)


def _has_record(cell: StudyCell, evaluation: CellEvaluation) -> bool:
    return not missing_result(cell, evaluation) and _has_step_records(cell, evaluation)


def missing_result(cell: StudyCell, evaluation: CellEvaluation) -> str:
    """What a record of an evaluation lacks, as text; empty if it is there, complete and current.

    Raises DataError if it is damaged.
    """
    path = evaluation.record_file(cell.run, evaluation.step)
    if not path.exists():
        return "no record"
    record = read_summary(path)
    if record.protocol_fingerprint not in evaluation.fingerprints:
        return OTHER_SETTINGS
    if record.run.step != cell.steps:
        return f"step {record.run.step:,} of {cell.steps:,}"
    known = {result.weights for result in record.results}
    return ", ".join(f"no {name}" for name in evaluation.weights if name not in known)


def _has_step_records(cell: StudyCell, evaluation: CellEvaluation) -> bool:
    """Whether all checkpoints that the run has at multiples of ``every`` have a record."""
    return evaluation.every is None or not unevaluated_steps(cell, evaluation)


def unevaluated_steps(cell: StudyCell, evaluation: CellEvaluation) -> list[int]:
    """Steps of the checkpoints that the run has at multiples of ``every`` and that have no record."""
    assert evaluation.every is not None, "it has no evaluation of chosen steps"
    steps = [step for step in cell.run.checkpoint_steps() if step and step % evaluation.every == 0]
    return [step for step in steps if not evaluation.record_file(cell.run, step).exists()]
