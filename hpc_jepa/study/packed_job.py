"""A job that runs several cells at a time: it takes cells from those of its submission until none is left.

A signal reaches every cell: each saves, and the job ends with EXIT_INTERRUPTED, on which it is queued again for what
is left. A cell that fails ends alone.
"""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hpc_jepa.errors import EXIT_INTERRUPTED, HpcJepaError
from hpc_jepa.study.cell_pool import CellPool
from hpc_jepa.study.packed_slots import CellShape, packed_slots
from hpc_jepa.study.slots import TaskSlots
from hpc_jepa.study.task import forwarded_signals
from hpc_jepa.training.shutdown import WallTime

RESCAN_SECONDS = 5.0
"""While a slot is free: time between two looks for a cell that others have given back, or that waited for another."""

START_SECONDS = 20.0
"""A cell is not started with less time left than this takes, times the safety factor of the wall time."""


@dataclass(frozen=True)
class PackedJob:
    """A job, its pool, and the number of the first of the cells that it prefers, as many as it runs at a time."""

    pool: Path
    first: int
    shape: CellShape


def run_packed_in_job(job: PackedJob) -> None:
    """Run a packed job and exit with its code: 130 if there is work left, else that of the first failed cell."""
    code = PackedRun(job).run()
    if code:
        sys.exit(code)


class PackedRun:
    """One start of a packed job."""

    def __init__(self, job: PackedJob) -> None:
        self._job, self._pool = job, CellPool(job.pool)
        self._time_left = WallTime.from_environment()
        self._running: dict[Future[int], int] = {}
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
                for number in self._pool.lost.intersection(self._running.values()):
                    slots.send_signal(signal.SIGTERM, self._pool.tasks[number].task)
                self._fill(slots)
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
            number = self._pool.take_first(self._preferred())
            if number is None:
                return
            self._started = True
            task = self._pool.tasks[number].task
            _log(f"{task.kind} {task.folder}: starts")
            self._running[slots.submit(task)] = number

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
        own = range(self._job.first, min(self._job.first + self._job.shape.cells, len(tasks)))
        yield from own
        groups = {tasks[number].group for number in self._running.values()}
        others = [number for number in reversed(range(len(tasks))) if number not in own]
        yield from (number for number in others if tasks[number].group in groups)
        yield from (number for number in others if tasks[number].group not in groups)

    def _stop(self, slots: TaskSlots, number: int) -> None:
        self._stopping = True
        slots.send_signal(number)

    def _end(self, number: int, future: "Future[int]") -> None:
        """Record how a cell ended."""
        task = self._pool.tasks[number].task
        try:
            code = future.result()
        except (OSError, HpcJepaError) as error:  # its log cannot be written
            _log(f"{task.kind} {task.folder}: {error}")
            code = error.exit_code if isinstance(error, HpcJepaError) else 1
        if self._stopping and code:
            code = EXIT_INTERRUPTED  # srun ends with another code if the signal comes before the step
        if code == EXIT_INTERRUPTED:
            self._stopping = True  # by the end of the job's time if not by a signal
        elif code and not self._failed:
            self._failed = code
        self._pool.finish(number, code)
        _log(f"{task.kind} {task.folder}: ended with exit code {code}")


def _log(line: str) -> None:
    """A line of the job's own output; what a cell prints is in the log of its run."""
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}", flush=True)
