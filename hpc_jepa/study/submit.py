"""Queue what a study still needs: one array for training, one for evaluations element by element after it, a report."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_jepa.study.grid import Cell
from hpc_jepa.study.ledger import Job, Ledger, arrays
from hpc_jepa.study.progress import Jobs, jobs_of
from hpc_jepa.study.queue import Queued
from hpc_jepa.study.records import is_evaluated
from hpc_jepa.study.slurm import Submission
from hpc_jepa.study.task import evaluating, reporting, training
from hpc_jepa.training.run_state import read_state


@dataclass(frozen=True)
class Need:
    """What one cell still needs, and the job of its training where that is in the queue already."""

    cell: Cell
    train: bool
    evaluate: bool
    training_job: str | None


@dataclass(frozen=True)
class Queue:
    """The newest jobs of a study, and what Slurm says about all jobs of this user."""

    latest: Mapping[tuple[Path, str], Job]
    known: Mapping[str, Queued]

    def jobs(self, cell: Cell) -> Jobs:
        """Those of one cell."""
        return jobs_of(cell, self.latest, self.known)


@dataclass
class Submitted:
    """What was queued just now."""

    train: list[Job] = field(default_factory=list)
    evaluate: list[Job] = field(default_factory=list)
    report: list[Job] = field(default_factory=list)


def needs(cells: Iterable[Cell], queue: Queue) -> list[Need]:
    """Cells that are neither done nor in the queue with all that is missing."""
    found = (_need(cell, queue) for cell in cells)
    return [need for need in found if need.train or need.evaluate]


def submit(wanted: Sequence[Need], submission: Submission, ledger: Ledger, study: Path) -> Submitted:
    """Queue it, and note every job in the ledger as soon as it has a number.

    Raises InputError with sbatch's own words where it refuses.
    """
    done = Submitted()
    for part in _parts([need for need in wanted if need.train], submission):
        trained = _queued(submission.array([training(need.cell) for need in part]), ledger, done.train)
        if part[0].evaluate:
            # Slurm pairs the elements of two arrays by their number; a job by itself is no array.
            word = "aftercorr" if len(part) > 1 else "afterok"
            judged = submission.array([evaluating(need.cell) for need in part], f"{word}:{trained[0].array}")
            _queued(judged, ledger, done.evaluate)
    for part in _parts([need for need in wanted if not need.train], submission):
        waited_for = [need.training_job for need in part if need.training_job]
        dependency = f"afterok:{':'.join(waited_for)}" if waited_for else None
        _queued(submission.array([evaluating(need.cell) for need in part], dependency), ledger, done.evaluate)
    if done.evaluate:
        after = f"afterany:{':'.join(arrays(done.evaluate))}"
        _queued(submission.array([reporting(study)], after), ledger, done.report)
    return done


def _parts(wanted: Sequence[Need], submission: Submission) -> Iterator[Sequence[Need]]:
    """As many as one array may have."""
    limit = submission.profile.cluster.array_limit
    for start in range(0, len(wanted), limit):
        yield wanted[start : start + limit]


def _queued(jobs: list[Job], ledger: Ledger, noted: list[Job]) -> list[Job]:
    ledger.add(jobs)
    noted += jobs
    return jobs


def _need(cell: Cell, queue: Queue) -> Need:
    jobs = queue.jobs(cell)
    state = read_state(cell.folder)
    trained = state is not None and state["state"] == "done"
    in_training = jobs.train is not None and jobs.train.alive
    in_evaluation = jobs.evaluate is not None and jobs.evaluate.alive
    latest = queue.latest.get((cell.folder, "train"))
    train = not trained and not in_training
    # Evaluations in the queue wait for a training that is gone when the cell is trained anew: they never start.
    return Need(
        cell,
        train=train,
        evaluate=not is_evaluated(cell) and (train or not in_evaluation),
        training_job=latest.job if latest and in_training else None,
    )
