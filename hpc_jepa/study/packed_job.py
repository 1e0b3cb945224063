"""A job that runs several cells at a time: it takes cells from those of its submission until none is left.

A signal reaches every cell: each saves, and the job ends with EXIT_INTERRUPTED, on which it is queued again for what
is left. A cell that fails ends alone. One command may evaluate several cells in one pass over the clips; if it fails,
each of them is evaluated by a command of its own, which finds the records that are there.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hpc_jepa.errors import EXIT_INTERRUPTED, HpcJepaError
from hpc_jepa.io.atomic import no_follow
from hpc_jepa.study.cell_pool import CellPool, PooledTask
from hpc_jepa.study.packed_slots import CellShape, packed_slots
from hpc_jepa.study.slots import TaskSlots
from hpc_jepa.study.task import StudyTask, forwarded_signals
from hpc_jepa.training.shutdown import WallTime

RESCAN_SECONDS = 5.0
"""While a slot is free: time between two looks for a cell that others have given back, or that waited for another."""

START_SECONDS = 20.0
"""A cell is not started with less time left than this takes, times the safety factor of the wall time."""


@dataclass(frozen=True)
class PackedJob:
    """A job, its pool, and the number of the first of the cells that it prefers, as many as it starts with."""

    pool: Path
    first: int
    shape: CellShape


def run_packed_in_job(job: PackedJob) -> None:
    """Run a packed job and exit with its code: 130 if there is work left, else that of the first failed cell."""
    code = PackedRun(job).run()
    if code:
        sys.exit(code)


@dataclass(frozen=True)
class _Pass:
    """Cells of a pool, by number, in one place of a job: a single one, or several that one command evaluates."""

    numbers: tuple[int, ...]
    task: StudyTask


class PackedRun:
    """One start of a packed job."""

    def __init__(self, job: PackedJob) -> None:
        self._job, self._pool = job, CellPool(job.pool)
        self._time_left = WallTime.from_environment()
        self._running: dict[Future[int], _Pass] = {}
        self._alone: list[int] = []
        """Taken cells of passes that failed, which get a command of their own."""
        self._stopping = self._started = False
        self._failed = 0

    def run(self) -> int:
        """Run cells until none is left, a signal comes, or the time is up; the exit code of the job."""
        with (
            packed_slots(self._job.shape) as (slots, about),
            self._pool.heartbeats(),
            forwarded_signals(lambda number: self._stop(slots, number)),
        ):
            _log(about)
            self._fill(slots)
            while self._running:
                ended, _ = wait(self._running, timeout=RESCAN_SECONDS, return_when=FIRST_COMPLETED)
                for future in ended:
                    self._end(self._running.pop(future), future)
                for each in self._running.values():
                    if self._pool.lost.intersection(each.numbers):
                        slots.send_signal(signal.SIGTERM, each.task)
                self._fill(slots)
            for number in self._alone:
                self._pool.finish(number, EXIT_INTERRUPTED)
        if self._pool.lost:
            _log("another start of this job has taken over")
            return HpcJepaError.exit_code  # not queued again: that would stop the other one
        if self._stopping or not self._has_time:
            left = next(self._pool.due(self._preferred()), None)
            return EXIT_INTERRUPTED if left is not None else self._failed
        return self._failed

    def _fill(self, slots: TaskSlots) -> None:
        """Start cells in the free slots."""
        while len(self._running) < self._job.shape.cells and self._goes_on and self._has_time:
            numbers = self._next()
            if not numbers:
                return
            self._started = True
            task = one_pass([self._pool.tasks[number] for number in numbers])
            for number in numbers:
                several = f" in one pass of {len(numbers)}" if len(numbers) > 1 else ""
                _log(f"{task.kind} {self._pool.tasks[number].folder}: starts{several}")
            self._running[slots.submit(task)] = _Pass(numbers, task)

    def _next(self) -> tuple[int, ...]:
        """The cells of the next free place; none if there is no work."""
        if self._alone:
            return (self._alone.pop(0),)
        return tuple(self._pool.take(self._preferred(), self._job.shape.cells_per_pass))

    @property
    def _goes_on(self) -> bool:
        return not self._stopping and not self._pool.lost

    @property
    def _has_time(self) -> bool:
        """Whether another cell may start. The first one always may: a short job would be queued again for ever."""
        return not self._started or self._time_left.fits_another(then=START_SECONDS)

    def _preferred(self) -> Iterator[int]:
        """All tasks: first the own ones, then those that read what a running one reads, the last of the pool first.

        The jobs that start next begin at the front, so that they find their own cells.
        """
        tasks = self._pool.tasks
        own = range(self._job.first, min(self._job.first + self._job.shape.cells_of_job, len(tasks)))
        yield from own
        groups = {tasks[number].group for each in self._running.values() for number in each.numbers}
        others = [number for number in reversed(range(len(tasks))) if number not in own]
        yield from (number for number in others if tasks[number].group in groups)
        yield from (number for number in others if tasks[number].group not in groups)

    def _stop(self, slots: TaskSlots, number: int) -> None:
        self._stopping = True
        slots.send_signal(number)

    def _end(self, ended: _Pass, future: "Future[int]") -> None:
        """Record how cells ended; those of a pass that failed are evaluated one by one instead."""
        task = ended.task
        try:
            code = future.result()
        except (OSError, HpcJepaError) as error:  # its log cannot be written
            _log(f"{task.kind} {task.folder}: {error}")
            code = error.exit_code if isinstance(error, HpcJepaError) else 1
        if self._stopping and code:
            code = EXIT_INTERRUPTED  # srun ends with another code if the signal comes before the step
        if code == EXIT_INTERRUPTED:
            self._stopping = True  # by the end of the job's time if not by a signal
        elif code and len(ended.numbers) > 1:
            self._alone += ended.numbers
            _log(f"{task.kind} {task.folder}: the pass of {len(ended.numbers)} failed (see {task.log}); one by one now")
            return
        elif code and not self._failed:
            self._failed = code
        for number in ended.numbers:
            self._pool.finish(number, code)
            _log(f"{task.kind} {self._pool.tasks[number].folder}: ended with exit code {code}")


def one_pass(tasks: Sequence[PooledTask]) -> StudyTask:
    """One task for evaluations with the same options: its commands name all runs. Its output goes to the log of the
    first run, which the logs of the others name.
    """
    first, *others = (each.task for each in tasks)
    if not others:
        return first
    for other in others:
        _refer(other.log, first)
    folders = tuple(str(each.folder) for each in tasks)
    commands = tuple((name, *folders, *rest) for name, *rest in tasks[0].options)
    return StudyTask(first.kind, first.folder, commands)


def _refer(log: Path, first: StudyTask) -> None:
    """A line in the log of a run about where the output of its evaluation is."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", opener=no_follow) as file:
            file.write(f"evaluated in one pass with {first.folder}; output: {first.log}\n")
    except OSError as error:  # the evaluation goes on without it
        _log(f"{log}: {error.strerror}")


def _log(line: str) -> None:
    """A line of the job's own output; what a cell prints is in the log of its run."""
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}", flush=True)
