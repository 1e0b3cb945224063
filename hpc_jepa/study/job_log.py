"""Jobs of a study: ``RUNS/<study>/jobs.jsonl`` lists the submitted jobs, Slurm has their states."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import RootModel

from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import DataError
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.jsonl import read_jsonl, read_sound
from hpc_jepa.io.retry import read_if_exists
from hpc_jepa.io.validation import parse_json
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.cell_pool import CellPool, Claim
from hpc_jepa.study.slurm_cli import JobState, sacct_jobs, squeue_jobs
from hpc_jepa.study.task import TaskKind

REMEDY = "delete the line, then 'study submit' submits missing work"


class SubmittedJob(Strict):
    """A job, or one element of a job array, and the run folder it works on.

    ``pool``: folder of the tasks that packed jobs share; any job of that pool may work on the folder, this one first.
    ``study``: the study that has submitted it, if it is not that of the list but one which reuses the run.
    """

    job: str
    kind: TaskKind
    folder: Path
    cluster: str
    time: float
    pool: Path | None = None
    study: str | None = None

    @property
    def array(self) -> str:
        """Id of the array of this element; of a single job its own id."""
        return self.job.partition("_")[0]


class _Refused(RootModel[dict[str, str]]):
    """Content of ``refused.json``: run folders with the reason."""


class JobLog:
    """All jobs of one study, oldest first, and the cells that the last submission refused.

    ``cells``: of the study. Trainings of runs that it reuses are in the lists of their own studies too: from there this
    one knows of them, and the others know of its own.
    """

    def __init__(self, study: StudyDir, cells: Iterable[StudyCell] = ()) -> None:
        self.path = study.jobs_file
        self._study = study
        self._refused = study.refused_file
        self._owners = {owner.path: owner for owner in reused_studies(cells)}

    def jobs(self) -> list[SubmittedJob]:
        """All jobs, and trainings of runs that the study reuses. Raises DataError naming the damaged line."""
        jobs = read_jsonl(self.path, SubmittedJob, REMEDY)
        others = [read_jsonl(owner.jobs_file, SubmittedJob, REMEDY) for owner in self._owners.values()]
        return _merged(jobs, others)

    def sound_jobs(self) -> tuple[list[SubmittedJob], str]:
        """The same on sound lines, and one line about the others, empty if there are none."""
        jobs, damaged = _sound_jobs(self.path)
        others = [_sound_jobs(owner.jobs_file) for owner in self._owners.values()]
        warnings = [damaged, *(warning for _, warning in others)]
        return _merged(jobs, [found for found, _ in others]), "\n".join(filter(None, warnings))

    def append(self, jobs: Sequence[SubmittedJob]) -> None:
        """Add jobs at the end, all or none; trainings of reused runs first to the lists of their studies.

        Of packed jobs all that share a pool: any of them may train a reused run.
        """
        for path, owner in self._owners.items():
            pools = {job.pool for job in jobs if job.pool is not None}
            shared = [pool for pool in pools if any(t.folder.is_relative_to(path) for t in CellPool(pool).tasks)]
            theirs = [job for job in jobs if job.folder.is_relative_to(path) or job.pool in shared]
            marked = {"study": self._study.path.name}
            _append(owner.jobs_file, [job.model_copy(update=marked) for job in theirs if job.kind == "train"])
        _append(self.path, jobs)

    def refused(self) -> dict[str, str]:
        """Run folders that the last submission refused, with the reason. Raises DataError if the file is damaged."""
        content = read_if_exists(self._refused)
        remedy = "delete it, 'study submit' writes a new one"
        return {} if content is None else parse_json(_Refused, content, self._refused, remedy).root

    def set_refused(self, reasons: Mapping[Path, str]) -> None:
        """Replace the refused cells of an earlier submission."""
        if reasons or self._refused.exists():
            content = {str(folder): reason for folder, reason in reasons.items()}
            write_atomically(self._refused, json.dumps(content, indent=1).encode())


def reused_studies(cells: Iterable[StudyCell]) -> list[StudyDir]:
    """The other studies that runs of these cells belong to, by path."""
    found = {cell.owner.path: cell.owner for cell in cells if cell.reused}
    return [found[path] for path in sorted(found)]


def _sound_jobs(path: Path) -> tuple[list[SubmittedJob], str]:
    """Jobs on the sound lines of a list, and one line about the others, empty if there are none."""
    try:
        jobs, errors = read_sound(path, SubmittedJob, REMEDY)
    except DataError as error:  # the file cannot be read
        return [], str(error)
    more = f" (and {len(errors) - 1} more lines)" if len(errors) > 1 else ""
    return jobs, f"{errors[0]}{more}" if errors else ""


def _merged(jobs: list[SubmittedJob], others: Iterable[list[SubmittedJob]]) -> list[SubmittedJob]:
    """Jobs of a study and trainings in other lists, oldest first."""
    trainings = [job for found in others for job in found if job.kind == "train"]
    return sorted([*jobs, *trainings], key=lambda job: job.time) if trainings else jobs


def _append(path: Path, jobs: Sequence[SubmittedJob]) -> None:
    if not jobs:
        return
    before = path.read_bytes() if path.exists() else b""
    before += b"" if before.endswith(b"\n") or not before else b"\n"
    write_atomically(path, before + "".join(f"{job.model_dump_json(exclude_none=True)}\n" for job in jobs).encode())


@dataclass(frozen=True)
class CellJobs:
    """Slurm state of the newest jobs of one cell; None if there is none or Slurm no longer lists it."""

    train: JobState | None = None
    evaluate: JobState | None = None
    follow: JobState | None = None


@dataclass(frozen=True)
class PackedState:
    """All jobs that may work on a task, and the state of the task as that of a job."""

    jobs: Sequence[str]
    state: JobState | None


@dataclass(frozen=True)
class JobQueue:
    """The newest jobs of a study by run folder and kind, and the state of all jobs of this user by job id.

    ``packed``: what packed jobs do with a folder, by folder and kind.
    """

    latest: Mapping[tuple[Path, str], SubmittedJob]
    states: Mapping[str, JobState]
    packed: Mapping[tuple[Path, str], PackedState] = field(default_factory=dict)

    @property
    def active(self) -> list[SubmittedJob]:
        """Jobs that are waiting or running, of packed ones all tasks of a pool with such a job."""
        return [job for job in self.latest.values() if self.active_ids(job)]

    def active_ids(self, job: SubmittedJob) -> list[str]:
        """Ids of the jobs that are waiting or running and may work on the folder."""
        packed = self.packed.get((job.folder, job.kind)) if job.pool else None
        ids = [job.job] if packed is None else packed.jobs
        return [name for name in ids if name in self.states and self.states[name].is_active]

    def state(self, folder: Path, kind: TaskKind) -> JobState | None:
        """Slurm state of the newest job of a folder; of a packed one that of its own task."""
        job = self.latest.get((folder, kind))
        if job is None:
            return None
        packed = self.packed.get((folder, kind)) if job.pool else None
        return self.states.get(job.job) if packed is None else packed.state

    def jobs(self, cell: StudyCell) -> CellJobs:
        """The newest jobs of one cell."""
        kinds: tuple[TaskKind, ...] = ("train", "evaluate", "follow")
        return CellJobs(*(self.state(cell.folder, kind) for kind in kinds))


def newest(jobs: Iterable[SubmittedJob]) -> dict[tuple[Path, str], SubmittedJob]:
    """The newest job of every run folder and kind."""
    return {(job.folder, job.kind): job for job in jobs}


def fetch_job_queue(jobs: Iterable[SubmittedJob]) -> JobQueue:
    """The newest of some jobs, oldest first, with their states. Slurm is queried only if there are any.

    Raises HpcJepaError if Slurm does not answer.
    """
    jobs = list(jobs)
    latest = newest(jobs)
    if not latest:
        return JobQueue({}, {})
    in_queue = squeue_jobs()
    others = [job for job in latest.values() if job.job not in in_queue]
    states = {**sacct_jobs(array_ids(others)), **in_queue}
    return JobQueue(latest, states, packed_states(jobs, latest, states))


def packed_states(
    jobs: Iterable[SubmittedJob], latest: Mapping[tuple[Path, str], SubmittedJob], states: Mapping[str, JobState]
) -> dict[tuple[Path, str], PackedState]:
    """What packed jobs do with the folders whose newest job is one of them, from the claims in their pools."""
    ids: dict[Path, dict[str, None]] = {}
    for job in jobs:
        if job.pool is not None:
            ids.setdefault(job.pool, {})[job.job] = None
    found = {}
    for pool in {job.pool for job in latest.values() if job.pool is not None}:
        claims = _claims(pool)
        for key, job in latest.items():
            if job.pool == pool:
                found[key] = PackedState(list(ids[pool]), _packed_state(job, claims.get(key), ids[pool], states))
    return found


def _claims(path: Path) -> dict[tuple[Path, str], Claim]:
    """Claims of a pool by folder and kind; none if it was removed or is damaged: its jobs do nothing more then."""
    pool = CellPool(path)
    try:
        return {(pool.tasks[number].folder, pool.tasks[number].kind): each for number, each in pool.claims().items()}
    except (OSError, DataError, IndexError):
        return {}


def _packed_state(
    job: SubmittedJob, claim: Claim | None, jobs: Iterable[str], states: Mapping[str, JobState]
) -> JobState | None:
    """State of one task: that of the job that has it, else waiting as long as a job of the pool may take it."""
    if claim is not None and claim.code is not None and claim.has_ended:
        ended = "COMPLETED" if claim.code == 0 else "FAILED"
        return JobState(ended, f"exit code {claim.code}", "")
    holder = states.get(claim.job) if claim is not None and claim.code is None and claim.job else None
    if holder is not None and holder.is_active:
        return holder
    known = [states[name] for name in jobs if name in states]
    waiting = next((state for state in known if state.is_waiting), None)
    if waiting is None and any(state.is_active for state in known):
        return JobState("PENDING", "no place free in its packed job", "")
    return waiting or states.get(job.job)


def array_ids(jobs: Iterable[SubmittedJob]) -> list[str]:
    """Job ids without array indices, each once."""
    return list(dict.fromkeys(job.array for job in jobs))
