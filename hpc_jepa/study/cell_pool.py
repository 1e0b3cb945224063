"""Tasks that the packed jobs of one submission share, and which job has taken which of them.

RUNS/<study>/slurm/pool-<id>/
    cells.jsonl                     the tasks, one a line; the number of a task is that of its line
    <number>.<generation>.json      a claim; the newest generation counts

A claim is created, and replaced by nobody else: of two jobs that take a task at the same time one fails to create the
file. No lock has to pass between nodes.
"""

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import EXIT_INTERRUPTED, DataError, HpcJepaError
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.jsonl import read_jsonl
from hpc_jepa.io.regular import read_regular
from hpc_jepa.io.retry import list_if_exists
from hpc_jepa.runs.lease import HEARTBEAT_INTERVAL, LEASE_TIMEOUT, LeaseHolder, file_system_time, read_holder
from hpc_jepa.runs.process_identity import on_this_machine
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.cell import is_trained, waits_for
from hpc_jepa.study.task import StudyTask, TaskKind

LOG = logging.getLogger(__name__)

CLAIM = re.compile(r"(\d+)\.(\d+)\.json")
REMEDY = "remove the folder, then 'hpc-jepa study submit' queues what is missing"


class PooledTask(Strict):
    """A task of one cell. ``until``, ``after``: as of its cell. Tasks of one ``group`` read the same clips."""

    kind: TaskKind
    folder: Path
    commands: tuple[tuple[str, ...], ...]
    until: int | None = None
    after: Path | None = None
    group: int = 0

    @property
    def task(self) -> StudyTask:
        """What to run."""
        return StudyTask(self.kind, self.folder, self.commands)

    @property
    def options(self) -> tuple[tuple[str, ...], ...]:
        """Its commands without the run folder, the first argument of those that evaluate."""
        return tuple((name, *rest) for name, _, *rest in self.commands)

    @property
    def is_due(self) -> bool:
        """Whether the task can start and is not done. That of a damaged run is due: its command names the damage."""
        run = RunDir(self.folder)
        try:
            if self.kind != "train":
                return is_trained(run, self.until)
            return not is_trained(run, self.until) and not waits_for(run, self.after) and not _trains_here(run)
        except DataError:
            return True


class Claim(Strict):
    """Who has taken a task. ``job``: its Slurm job as in the list of jobs; ``code``: exit code, None while it runs."""

    holder: LeaseHolder
    job: str | None
    code: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the task has succeeded or failed; an interrupted one has not."""
        return self.code is not None and self.code != EXIT_INTERRUPTED


class CellPool:
    """Tasks in a folder. A process takes tasks, renews its claims, and ends each with an exit code."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = set[int]()
        """Tasks that another process has taken over from this one."""
        self._held: dict[int, int] = {}
        self._ended = set[int]()
        self._heartbeat_error: BaseException | None = None

    @classmethod
    def create(cls, folder: Path, tasks: Sequence[PooledTask]) -> "CellPool":
        """A new pool below ``folder``."""
        pool = cls(folder / f"pool-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
        pool.path.mkdir(parents=True)
        write_atomically(pool._tasks_file, "".join(f"{task.model_dump_json()}\n" for task in tasks).encode())
        return pool

    @cached_property
    def tasks(self) -> list[PooledTask]:
        """All tasks by number. Raises DataError if the file is damaged."""
        return read_jsonl(self._tasks_file, PooledTask, REMEDY)

    @cached_property
    def _holder(self) -> LeaseHolder:
        return LeaseHolder.current()

    def claims(self) -> dict[int, Claim]:
        """The newest claims by number of the task; one that is being written is left out."""
        found = ((number, self._read(number, generation)) for number, generation in self._generations().items())
        return {number: claim for number, claim in found if claim is not None}

    def take(self, numbers: Iterable[int], most: int = 1) -> list[int]:
        """Take the first of these tasks that nobody has and that is due, and further ones with the same options, at
        most so many; their numbers, none if none is due.
        """
        taken: list[int] = []
        for number in self.due(numbers):
            alike = not taken or self.tasks[number].options == self.tasks[taken[0]].options
            if alike and self._take(number):
                taken.append(number)
            if len(taken) == most:
                break
        return taken

    def due(self, numbers: Iterable[int]) -> Iterator[int]:
        """The tasks among ``numbers`` that nobody has and that are due.

        Raises HpcJepaError if the heartbeats have ended: others would take over what runs here.
        """
        if self._heartbeat_error is not None:
            raise HpcJepaError(f"{self.path}: heartbeats ended ({self._heartbeat_error!r})") from self._heartbeat_error
        generations = self._generations()
        for number in numbers:
            free = number not in self._ended and self._is_free(number, generations.get(number, 0))
            if free and self.tasks[number].is_due:
                yield number

    def finish(self, number: int, code: int) -> None:
        """End the own claim with the exit code of the task, unless it is ``lost``."""
        generation = self._held.pop(number)
        if self._file(number, generation + 1).exists():
            self.lost.add(number)
            return
        claim = Claim(holder=self._holder, job=_job_of_list(), code=code)
        write_atomically(self._file(number, generation), claim.model_dump_json().encode())

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Renew the own claims in a thread, and collect those that are ``lost``."""
        stop = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(stop,), name="claims", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _renew_until(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(HEARTBEAT_INTERVAL):
                self._renew()
        except BaseException as error:
            self._heartbeat_error = error
            raise

    def _renew(self) -> None:
        for number, generation in tuple(self._held.items()):
            try:
                if self._file(number, generation + 1).exists():
                    self.lost.add(number)
                os.utime(self._file(number, generation))
            except OSError as error:  # the next heartbeat may succeed
                LOG.warning("%s: claim not renewed (%s)", error.filename, error.strerror)

    def _take(self, number: int) -> bool:
        generation = self._generations().get(number, 0)
        if not self._is_free(number, generation):
            return False
        claim = Claim(holder=self._holder, job=_job_of_list())
        try:
            with self._file(number, generation + 1).open("xb") as file:
                file.write(claim.model_dump_json().encode())
        except FileExistsError:
            return False
        self._held[number] = generation + 1
        return True

    def _is_free(self, number: int, generation: int) -> bool:
        """Whether nobody works on a task, whose newest claim has this generation; 0: none."""
        if number in self._held:
            return False
        claim = self._read(number, generation) if generation else None
        if claim is None:
            return not generation or self._is_expired(number, generation)
        if claim.has_ended:
            self._ended.add(number)
        if claim.code is not None:
            return not claim.has_ended
        identity = claim.holder.identity
        if self._holder.supersedes(claim.holder):
            return True
        if identity is not None and on_this_machine(identity):
            return not identity.is_running
        return self._is_expired(number, generation)

    def _is_expired(self, number: int, generation: int) -> bool:
        """Whether a claim misses its heartbeats, on the clock of the file system."""
        return file_system_time(self.path) - self._file(number, generation).stat().st_mtime > LEASE_TIMEOUT

    def _generations(self) -> dict[int, int]:
        """The newest generation of every task that has a claim."""
        newest: dict[int, int] = {}
        for name in list_if_exists(self.path):
            if match := CLAIM.fullmatch(name):
                number, generation = map(int, match.groups())
                newest[number] = max(generation, newest.get(number, 0))
        return newest

    def _read(self, number: int, generation: int) -> Claim | None:
        try:
            return Claim.model_validate_json(read_regular(self._file(number, generation)))
        except (FileNotFoundError, ValidationError):
            return None

    def _file(self, number: int, generation: int) -> Path:
        return self.path / f"{number}.{generation}.json"

    @property
    def _tasks_file(self) -> Path:
        return self.path / "cells.jsonl"


def _trains_here(run: RunDir) -> bool:
    """Whether a process of this machine trains the run, other than an earlier start of this Slurm job.

    The lease decides on others: the command waits for a heartbeat.
    """
    holder = read_holder(run)
    if holder is None or holder.identity is None or not on_this_machine(holder.identity):
        return False
    return holder.identity.is_running and not LeaseHolder.current().supersedes(holder)


def _job_of_list() -> str | None:
    """The Slurm job of this process as in ``jobs.jsonl``: the element of an array, or the id."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")
