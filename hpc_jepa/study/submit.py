"""Submit a study to Slurm and cancel it.

Missing work goes into one job array for training, one for evaluation whose elements each wait for the training of the
same cell, and a report job. Packed jobs take cells from a pool, so their evaluations wait for all trainings. Of a
sequential study it is the work of the next look; a job after it takes the look and submits again.
"""

import os
import signal
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_jepa.config.cluster import Profile
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.atomic import exclusive_lock
from hpc_jepa.runs.lease import read_holder
from hpc_jepa.runs.process_identity import ProcessIdentity
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.cell_pool import CellPool, PooledTask
from hpc_jepa.study.grid import create_study_dir, expand_study
from hpc_jepa.study.job_log import JobLog, JobQueue, SubmittedJob, array_ids, fetch_job_queue, reused_studies
from hpc_jepa.study.packing import pooled_evaluations, pooled_trainings, refuse_online_packed, sharing_note
from hpc_jepa.study.preflight import group_by_reason, preflight_errors
from hpc_jepa.study.slurm_cli import require_commands, scancel
from hpc_jepa.study.slurm_submitter import SlurmSubmitter
from hpc_jepa.study.status import UNFINISHED, is_evaluated, read_study_status
from hpc_jepa.study.task import StudyTask, evaluation_task, look_task, online_task, report_task, training_task

if TYPE_CHECKING:
    from hpc_jepa.study.sequential import NextStep

MOST_ATTEMPTS = 2
"""Jobs of one kind that an unattended study submits for a cell."""


@dataclass
class SubmittedJobs:
    """New jobs by kind, and the refused cells: each reason with its run folders."""

    train: list[SubmittedJob] = field(default_factory=list)
    evaluate: list[SubmittedJob] = field(default_factory=list)
    follow: list[SubmittedJob] = field(default_factory=list)
    look: list[SubmittedJob] = field(default_factory=list)
    report: list[SubmittedJob] = field(default_factory=list)
    step: "NextStep | None" = None
    refused: Sequence[tuple[str, Sequence[Path]]] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """One line per kind of job, and notes, to print."""
        kinds = {
            "pretraining": self.train,
            "evaluation during it": self.follow,
            "evaluation": self.evaluate,
            "next look": self.look,
            "report": self.report,
        }
        lines = [f"{kind}: {_counted(jobs)}, {', '.join(array_ids(jobs))}" for kind, jobs in kinds.items() if jobs]
        return [*lines, *self.notes] if lines else ["nothing to submit: every cell is done or in the queue"]


def _counted(jobs: Sequence[SubmittedJob]) -> str:
    """``9 jobs``, or of packed ones ``36 cells in 9 jobs``."""
    number = len({job.job for job in jobs})
    named = f"{number} {'job' if number == 1 else 'jobs'}"
    return f"{len(jobs)} {'cell' if len(jobs) == 1 else 'cells'} in {named}" if jobs[0].pool else named


@dataclass(frozen=True)
class MissingWork:
    """Tasks that one cell needs, and the id of its training job if that is in the queue already.

    ``training_job``, ``parent_job``: of the run that this one begins after; of packed jobs all that may train it,
    joined by colons. ``follow``: a job beside the
    training that evaluates its checkpoints; ``old_follower``: one in the queue that is still waiting for the training
    before.
    """

    cell: StudyCell
    train: bool
    evaluate: bool
    training_job: str | None
    parent_job: str | None = None
    follow: bool = False
    old_follower: str | None = None


@dataclass(frozen=True)
class CancelledWork:
    """Number of cancelled Slurm jobs, and of processes on this machine that were sent SIGTERM.

    ``warning``: which jobs are unknown because their lines are damaged, else empty. ``left``: runs of other studies
    that train on this machine and go on.
    """

    jobs: int
    processes: int
    warning: str = ""
    left: int = 0


def submit_study(
    study: StudyConfig, profile: Profile, runs: Path, *, only_unfinished: bool = False, skip_failed: bool = False
) -> SubmittedJobs:
    """Submit all missing work of a study, of a sequential one that of its next look.

    ``only_unfinished``: only that of cells that failed or stalled. ``skip_failed``: a look does without failed cells.
    Cells that cannot run are recorded as refused and the others are submitted. Raises InputError if no cell can run or
    sbatch rejects a job, HpcJepaError if Slurm does not answer.
    """
    require_commands("sbatch", "srun", "squeue")
    cells = expand_study(study, runs)
    refused = preflight_errors(cells, profile.cluster)
    if len(refused) == len(cells):
        raise InputError(next(iter(refused.values())))
    refuse_online_packed(cells, profile)
    folder = StudyDir(runs / study.study)
    folder.path.mkdir(parents=True, exist_ok=True)
    job_log = JobLog(folder, cells)
    with _locked([folder, *reused_studies(cells)], wait=skip_failed):
        step = take_looks(study, folder, given_up(cells, folder) if skip_failed else ())
        create_study_dir(study, runs)
        wanted = cells if step is None else [each.cell for each in step.cells]
        selected: Sequence[StudyCell] = read_study_status(wanted, folder).unfinished if only_unfinished else wanted
        runnable = [cell for cell in selected if cell.folder not in refused]
        not_queued = {cell.folder: refused[cell.folder] for cell in wanted if cell.folder in refused}
        job_log.set_refused(not_queued)
        kind = _PackedBatch if profile.cluster.packs else _Batch
        batch = kind(SlurmSubmitter(profile, folder.slurm_dir, study.study), job_log)
        queue = fetch_job_queue(job_log.jobs())
        batch.submit(missing_work(runnable, queue))
        reports = not wanted or any(cell.until is None for cell in wanted)
        batch.finish(folder, None if step is None else _active_jobs(wanted, queue), queue, reports)
    batch.submitted.step = step
    batch.submitted.refused = group_by_reason(
        {cell.folder: refused[cell.folder] for cell in selected if cell.folder in refused}
    )
    return batch.submitted


@contextmanager
def _locked(studies: Sequence[StudyDir], wait: bool) -> Iterator[None]:
    """Lock the lists of jobs of several studies, in one order whoever does."""
    with ExitStack() as locks:
        for study in sorted(studies, key=lambda each: each.path):
            locks.enter_context(exclusive_lock(study.lock_file, wait=wait))
        yield


def take_looks(study: StudyConfig, folder: StudyDir, failed: Collection[Path] = ()) -> "NextStep | None":
    """The next step of a sequential study, looks that it takes recorded; None for another study.

    ``failed``: run folders that a look does without. Raises InputError if a recorded rule was changed or taken out.
    """
    if study.sequential is not None:
        from hpc_jepa.study.sequential import SequentialStudy  # imports scipy: other studies do not wait for it

        return SequentialStudy(study, folder.path.parent).advance(failed)
    if folder.looks_file.exists():
        raise InputError(
            f"{folder.looks_file}: the study is sequential there, but has no sequential: now; undo the change, or give "
            "the study another name"
        )
    return None


def given_up(cells: Sequence[StudyCell], folder: StudyDir) -> set[Path]:
    """Run folders of cells that failed, and of those that neither wait nor run after MOST_ATTEMPTS jobs."""
    view = read_study_status(cells, folder)
    jobs, _ = JobLog(folder).sound_jobs()
    attempts = Counter((job.folder, job.kind) for job in jobs)
    exhausted = {path for (path, _), count in attempts.items() if count >= MOST_ATTEMPTS}
    pairs = zip(view.cells, view.statuses, strict=True)
    return {
        cell.folder
        for cell, status in pairs
        if status.state in ("failed", "refused", "damaged") or (status.state in UNFINISHED and cell.folder in exhausted)
    }


def missing_work(cells: Iterable[StudyCell], queue: JobQueue) -> list[MissingWork]:
    """Work of all cells that is neither done nor in the queue."""
    missing = (_missing_of(cell, queue) for cell in cells)
    return [work for work in missing if work.train or work.evaluate or work.follow]


def cancel_study(cells: Sequence[StudyCell], study: StudyDir) -> CancelledWork:
    """Cancel all waiting and running jobs of the study, and send SIGTERM to its runs on this machine: they save.

    Jobs that other studies have submitted for its runs, and the runs that it reuses, are left alone.
    """
    jobs, damaged = JobLog(study).sound_jobs()
    queue = fetch_job_queue(job for job in jobs if job.study is None)
    active = {name for job in queue.active for name in queue.active_ids(job)}
    scancel(array_ids(queue.active))
    stopped = sum(_terminate(cell) for cell in cells if not cell.reused)
    left = sum(_local_trainer(cell) is not None for cell in cells if cell.reused)
    return CancelledWork(len(active), stopped, damaged, left)


class _Batch:
    """One submission. Each job goes into the job log as soon as it has an id."""

    def __init__(self, submitter: SlurmSubmitter, job_log: JobLog) -> None:
        self.submitted = SubmittedJobs()
        self._submitter = submitter
        self._job_log = job_log

    def submit(self, missing: Sequence[MissingWork]) -> None:
        """Submit trainings in chunks of one array each, and the evaluations that wait for them or can start now."""
        for chunk, after in self._trainings([work for work in missing if work.train]):
            trained = self._array(self.submitted.train, [training_task(work.cell) for work in chunk], after)
            if chunk[0].follow:
                self._follow_and_evaluate(chunk, trained)
            elif chunk[0].evaluate:
                # aftercorr pairs the elements of two arrays by index; a single job is not an array.
                dependency = f"{'aftercorr' if len(chunk) > 1 else 'afterok'}:{trained[0].array}"
                self._array(self.submitted.evaluate, [evaluation_task(work.cell) for work in chunk], dependency)
        for work in missing:
            if work.follow and not work.train and work.training_job:
                self._follow(work, work.training_job)
        for chunk in self._chunks([work for work in missing if work.evaluate and not work.train]):
            trainings = [work.training_job for work in chunk if work.training_job]
            after = f"afterok:{':'.join(trainings)}" if trainings else None
            self._array(self.submitted.evaluate, [evaluation_task(work.cell) for work in chunk], after)

    def _follow_and_evaluate(self, chunk: Sequence[MissingWork], trained: Sequence[SubmittedJob]) -> None:
        """Cell by cell: the dependency on the start of an array holds only when all its elements have started."""
        for work, training in zip(chunk, trained, strict=True):
            follower = self._follow(work, training.job)
            if work.evaluate:
                dependency = f"afterok:{training.job},afterany:{follower.job}"
                self._array(self.submitted.evaluate, [evaluation_task(work.cell)], dependency)

    def _follow(self, work: MissingWork, training_job: str) -> SubmittedJob:
        """A job that evaluates checkpoints from the start of the training to its end; it replaces an old one."""
        if work.old_follower is not None:
            scancel([work.old_follower])
        task = online_task(work.cell, follow=True)
        return self._array(self.submitted.follow, [task], f"after:{training_job}")[0]

    def _trainings(self, waiting: Sequence[MissingWork]) -> Iterator[tuple[Sequence[MissingWork], str | None]]:
        """Cells of one array each and its dependency, phase after phase.

        Read the next one only when the last is submitted: its jobs are what the next phase waits for.
        """
        while waiting:
            folders = {work.cell.folder for work in waiting}
            ready = [work for work in waiting if work.cell.after not in folders]
            waiting = [work for work in waiting if work.cell.after in folders]
            jobs = {job.folder: job.job for job in self.submitted.train}
            parents = [jobs.get(work.cell.after, work.parent_job) if work.cell.after else None for work in ready]
            free = [work for work, parent in zip(ready, parents, strict=True) if parent is None]
            yield from ((chunk, None) for chunk in self._chunks(free))
            arrays: dict[str, list[tuple[MissingWork, str]]] = {}
            for work, parent in zip(ready, parents, strict=True):
                if parent is not None:
                    arrays.setdefault(parent.partition("_")[0], []).append((work, parent))
            for array, group in arrays.items():
                yield from _after_array(array, group)

    def finish(
        self, study: StudyDir, active: Sequence[SubmittedJob] | None, queue: JobQueue, reports: bool = True
    ) -> None:
        """Report after the evaluations. With the ``active`` jobs of a look, take the look after all of them first.

        ``reports``: whether there is anything to report yet; not while looks compare a prefix of the steps.
        """
        after = self.submitted.evaluate
        if active is not None:
            jobs = [*active, *self.submitted.train, *self.submitted.evaluate]
            is_new = bool(self.submitted.train or self.submitted.evaluate)
            if not jobs or not (is_new or not _waits_for_look(study, queue)):
                return
            task = look_task(study, self._submitter.profile.path)
            after = self._array(self.submitted.look, [task], f"afterany:{':'.join(array_ids(jobs))}")
        if after and reports:
            self._array(self.submitted.report, [report_task(study.path)], f"afterany:{':'.join(array_ids(after))}")

    def _array(
        self, submitted: list[SubmittedJob], tasks: Sequence[StudyTask], dependency: str | None = None
    ) -> list[SubmittedJob]:
        jobs = self._submitter.submit_array(tasks, dependency)
        self._job_log.append(jobs)
        submitted += jobs
        return jobs

    def _chunks(self, missing: Sequence[MissingWork]) -> Iterator[Sequence[MissingWork]]:
        """As many cells as one job array may have."""
        limit = self._submitter.profile.cluster.array_limit
        for start in range(0, len(missing), limit):
            yield missing[start : start + limit]


class _PackedBatch(_Batch):
    """One submission whose jobs take cells from a pool for each kind of task."""

    def submit(self, missing: Sequence[MissingWork]) -> None:
        """Submit trainings, phase after phase, and the evaluations that wait for any training or can start now."""
        trainings = [work for work in missing if work.train]
        if self._submitter.profile.cluster.train.cells_per_job > 1:
            self._pack_trainings(trainings)
        else:
            for chunk, after in self._trainings(trainings):
                self._array(self.submitted.train, [training_task(work.cell) for work in chunk], after)
        waiting = [work for work in missing if work.evaluate and (work.train or work.training_job)]
        ready = [work for work in missing if work.evaluate and not (work.train or work.training_job)]
        queued = [work.training_job for work in waiting if work.training_job]
        after = _after_all([*array_ids(self.submitted.train), *queued])
        self._pack(self.submitted.evaluate, pooled_evaluations([work.cell for work in waiting]), after)
        self._pack(self.submitted.evaluate, pooled_evaluations([work.cell for work in ready]), None)

    def _pack_trainings(self, trainings: Sequence[MissingWork]) -> None:
        """One pool for all phases: a job with a free place takes a cell of a later phase as soon as it can begin."""
        if not trainings:
            return
        levels = list(_levels(trainings))
        tasks = [pooled_trainings([work.cell for work in level]) for level in levels]
        pool = CellPool.create(self._submitter.folder, [task for level in tasks for task in level])
        first, after = 0, _after_all([work.parent_job for work in levels[0] if work.parent_job])
        for level in tasks:
            jobs = self._submit_packs(self.submitted.train, pool, range(first, first + len(level)), after)
            first, after = first + len(level), _after_all(array_ids(jobs))
        cells = self._submitter.profile.cluster.train.cells_per_job
        self.submitted.notes.append(f"pretraining: {cells} cells at a time in a job; {sharing_note(pool.tasks)}")

    def _pack(self, submitted: list[SubmittedJob], tasks: Sequence[PooledTask], dependency: str | None) -> None:
        if tasks:
            pool = CellPool.create(self._submitter.folder, tasks)
            self._submit_packs(submitted, pool, range(len(tasks)), dependency)

    def _submit_packs(
        self, submitted: list[SubmittedJob], pool: CellPool, numbers: Sequence[int], dependency: str | None
    ) -> list[SubmittedJob]:
        """Packed jobs for these tasks of a pool, in arrays of at most the allowed size."""
        cluster = self._submitter.profile.cluster
        kind = pool.tasks[numbers[0]].kind
        most = cluster.array_limit * (cluster.train if kind == "train" else cluster.evaluate).cells_of_job
        jobs = []
        for first in range(0, len(numbers), most):
            jobs += self._submitter.submit_packed(pool, numbers[first : first + most], dependency)
            self._job_log.append(jobs[first:])
        submitted += jobs
        return jobs


def _levels(waiting: Sequence[MissingWork]) -> Iterator[Sequence[MissingWork]]:
    """The cells of each phase: those that wait for no cell of an earlier level, and so on."""
    while waiting:
        folders = {work.cell.folder for work in waiting}
        yield [work for work in waiting if work.cell.after not in folders]
        waiting = [work for work in waiting if work.cell.after in folders]


def _after_all(jobs: Iterable[str]) -> str | None:
    """The dependency on the end of these jobs, of elements of an array on that of the whole array."""
    arrays = dict.fromkeys(job.partition("_")[0] for names in jobs for job in names.split(":"))
    return f"afterany:{':'.join(arrays)}" if arrays else None


def _after_array(
    array: str, group: Sequence[tuple[MissingWork, str]]
) -> Iterator[tuple[Sequence[MissingWork], str | None]]:
    """Cells that wait for elements of one array: as one array where element n waits for element n, else one by one."""
    if len(group) > 1 and [parent for _, parent in group] == [f"{array}_{index}" for index in range(len(group))]:
        yield [work for work, _ in group], f"aftercorr:{array}"
        return
    for work, parent in group:
        yield [work], f"afterok:{parent}"


def _active_jobs(cells: Iterable[StudyCell], queue: JobQueue) -> list[SubmittedJob]:
    folders = {cell.folder for cell in cells}
    return [job for job in queue.active if job.folder in folders]


def _waits_for_look(study: StudyDir, queue: JobQueue) -> bool:
    """Whether a job that takes the next look is in the queue, other than the one this process runs in."""
    own = os.environ.get("SLURM_JOB_ID")
    return any(job.kind == "look" and job.folder == study.path and job.job != own for job in queue.active)


def _missing_of(cell: StudyCell, queue: JobQueue) -> MissingWork:
    jobs = queue.jobs(cell)
    trained = cell.is_trained
    in_training = jobs.train is not None and jobs.train.is_active
    in_evaluation = jobs.evaluate is not None and jobs.evaluate.is_active
    latest = queue.latest.get((cell.folder, "train"))
    in_following = jobs.follow is not None and jobs.follow.is_active
    train = not trained and not in_training
    # A queued evaluation waits for a training job that has ended, so it never starts: submit it with the new training.
    return MissingWork(
        cell,
        train=train,
        evaluate=not is_evaluated(cell) and (train or not in_evaluation),
        training_job=":".join(queue.active_ids(latest)) if latest and in_training else None,
        parent_job=_active_parent(cell, queue),
        follow=cell.online is not None and not trained and (train or not in_following),
        old_follower=queue.latest[cell.folder, "follow"].job if train and in_following else None,
    )


def _active_parent(cell: StudyCell, queue: JobQueue) -> str | None:
    """The job in the queue that trains the run which this one begins after."""
    job = queue.latest.get((cell.after, "train")) if cell.after is not None else None
    return ":".join(queue.active_ids(job)) or None if job is not None else None


def _terminate(cell: StudyCell) -> bool:
    """Send SIGTERM to the process that trains the cell on this machine outside Slurm, if it still runs.

    A stale lease names an id that another process may have by now; nothing is sent unless the process is the holder.
    """
    trainer = _local_trainer(cell)
    return trainer is not None and trainer.send_signal(signal.SIGTERM)


def _local_trainer(cell: StudyCell) -> ProcessIdentity | None:
    """The process that holds the lease of a run outside Slurm, if it runs on this machine."""
    holder = read_holder(cell.run)
    if holder is None or holder.job is not None or holder.identity is None:
        return None
    return holder.identity if holder.identity.is_running else None
