"""Queue what a study still needs: one array for training, one for evaluations element by element after it, a report."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.grid import StudyCell
from hpc_jepa.study.job_log import JobLog, SubmittedJob, array_ids
from hpc_jepa.study.records import is_evaluated
from hpc_jepa.study.slurm_cli import JobState
from hpc_jepa.study.slurm_submitter import SlurmSubmitter
from hpc_jepa.study.status import CellJobs, jobs_of_cell
from hpc_jepa.study.task import evaluation_task, report_task, training_task


@dataclass(frozen=True)
class MissingWork:
    """What one cell still needs, and the job of its training where that is in the queue already."""

    cell: StudyCell
    train: bool
    evaluate: bool
    training_job: str | None


@dataclass(frozen=True)
class JobQueue:
    """The newest jobs of a study, and what Slurm says about all jobs of this user."""

    latest: Mapping[tuple[Path, str], SubmittedJob]
    known: Mapping[str, JobState]

    def jobs(self, cell: StudyCell) -> CellJobs:
        """Those of one cell."""
        return jobs_of_cell(cell, self.latest, self.known)


@dataclass
class SubmittedJobs:
    """What was queued just now."""

    train: list[SubmittedJob] = field(default_factory=list)
    evaluate: list[SubmittedJob] = field(default_factory=list)
    report: list[SubmittedJob] = field(default_factory=list)


def missing_work(cells: Iterable[StudyCell], queue: JobQueue) -> list[MissingWork]:
    """Cells that are neither done nor in the queue with all that is missing."""
    found = (_missing_of(cell, queue) for cell in cells)
    return [need for need in found if need.train or need.evaluate]


def submit_missing(
    wanted: Sequence[MissingWork], submission: SlurmSubmitter, job_log: JobLog, study: Path
) -> SubmittedJobs:
    """Queue it, and note every job in the ledger as soon as it has a number.

    Raises InputError with sbatch's own words where it refuses.
    """
    done = SubmittedJobs()
    for part in _parts([need for need in wanted if need.train], submission):
        trained = _queued(submission.array([training_task(need.cell) for need in part]), job_log, done.train)
        if part[0].evaluate:
            # Slurm pairs the elements of two arrays by their number; a job by itself is no array.
            word = "aftercorr" if len(part) > 1 else "afterok"
            judged = submission.array([evaluation_task(need.cell) for need in part], f"{word}:{trained[0].array}")
            _queued(judged, job_log, done.evaluate)
    for part in _parts([need for need in wanted if not need.train], submission):
        waited_for = [need.training_job for need in part if need.training_job]
        dependency = f"afterok:{':'.join(waited_for)}" if waited_for else None
        _queued(submission.array([evaluation_task(need.cell) for need in part], dependency), job_log, done.evaluate)
    if done.evaluate:
        after = f"afterany:{':'.join(array_ids(done.evaluate))}"
        _queued(submission.array([report_task(study)], after), job_log, done.report)
    return done


def _parts(wanted: Sequence[MissingWork], submission: SlurmSubmitter) -> Iterator[Sequence[MissingWork]]:
    """As many as one array may have."""
    limit = submission.profile.cluster.array_limit
    for start in range(0, len(wanted), limit):
        yield wanted[start : start + limit]


def _queued(jobs: list[SubmittedJob], job_log: JobLog, noted: list[SubmittedJob]) -> list[SubmittedJob]:
    job_log.add(jobs)
    noted += jobs
    return jobs


def _missing_of(cell: StudyCell, queue: JobQueue) -> MissingWork:
    jobs = queue.jobs(cell)
    state = RunDir(cell.folder).state
    trained = state is not None and state.state == "done"
    in_training = jobs.train is not None and jobs.train.is_active
    in_evaluation = jobs.evaluate is not None and jobs.evaluate.is_active
    latest = queue.latest.get((cell.folder, "train"))
    train = not trained and not in_training
    # Evaluations in the queue wait for a training that is gone when the cell is trained anew: they never start.
    return MissingWork(
        cell,
        train=train,
        evaluate=not is_evaluated(cell) and (train or not in_evaluation),
        training_job=latest.job if latest and in_training else None,
    )
