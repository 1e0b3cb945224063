"""Processes that build units of work, and what happens when one of them dies.

A worker says which sample it is about to touch. So a file that crashes a decoder, or keeps it busy for ever, costs that
file and not the build: the unit is begun anew without it.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from hpc_jepa.data.shards.build_task import BuildTask, BuildTaskResult, run_build_task
from hpc_jepa.data.shards.manifest import Recipe
from hpc_jepa.data.sources.source import DataSource
from hpc_jepa.errors import HpcJepaError

SAMPLE_TIMEOUT = 3600
"""Seconds a single sample may take."""

Advance = Callable[[int], object]


class BuildContext(NamedTuple):
    """What every unit of a build has in common."""

    source: DataSource
    folder: Path
    recipe: Recipe

    def build(self, unit: BuildTask, begin: Callable[[int], object]) -> BuildTaskResult:
        """One unit."""
        return run_build_task(self.source, unit, self.folder, self.recipe, begin)


def run_build_tasks(
    job: BuildContext, units: Iterable[BuildTask], workers: int, advance: Advance
) -> Iterator[BuildTaskResult]:
    """Build units in ``workers`` processes, in this one if there are 0; yields them as they are done.

    ``advance`` is told of every sample that is begun. Raises whatever error for people a worker met, and OSError.
    """
    if workers:
        yield from _WorkerPool(job, deque(units), workers, advance).work()
        return
    for unit in units:
        yield job.build(unit, lambda index: advance(1))


class _Worker:
    """A process, the unit it is at, and the sample."""

    def __init__(self, job: BuildContext) -> None:
        # Forked from a server without threads, which imports the program only once for all of them.
        context = multiprocessing.get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        self.process: ForkServerProcess = context.Process(target=_work, args=(theirs, job), daemon=True)
        self.process.start()
        theirs.close()
        self.unit: BuildTask | None = None
        self.sample: int | None = None
        self.begun = 0

    def give(self, unit: BuildTask) -> None:
        """Begin a unit."""
        self.unit, self.sample, self.begun = unit, None, 0
        with suppress(BrokenPipeError):  # a worker that has died is noticed where its answer is awaited
            self.pipe.send(unit)


class _WorkerPool:
    """Keeps every worker busy until all units are built."""

    def __init__(self, job: BuildContext, units: deque[BuildTask], workers: int, advance: Advance) -> None:
        self._job = job
        self._units = units
        self._advance = advance
        self._count = min(workers, len(units))
        self._killed: set[int] = set()

    def work(self) -> Iterator[BuildTaskResult]:
        """Built units, in the order they get done."""
        workers: dict[Connection, _Worker] = {}
        try:
            for _ in range(self._count):
                self._start(workers)
            while workers:
                for pipe in wait(list(workers)):
                    assert isinstance(pipe, Connection)
                    built = self._hear(workers, pipe)
                    if built is not None:
                        yield built
        finally:
            _dismiss(workers.values())

    def _start(self, workers: dict[Connection, _Worker]) -> None:
        if self._units:
            worker = _Worker(self._job)
            workers[worker.pipe] = worker
            worker.give(self._units.popleft())

    def _hear(self, workers: dict[Connection, _Worker], pipe: Connection) -> BuildTaskResult | None:
        """What a worker has to say: a sample it begins, a unit it has built, an error, or nothing any more."""
        worker = workers[pipe]
        try:
            message = pipe.recv()
        except (EOFError, ConnectionResetError):
            del workers[pipe]
            self._replace(worker)
            self._start(workers)
            return None
        if isinstance(message, int):
            worker.sample = message
            worker.begun += 1
            self._advance(1)
            return None
        if isinstance(message, Exception):
            raise message
        assert isinstance(message, BuildTaskResult)
        self._next(workers, worker)
        return message

    def _next(self, workers: dict[Connection, _Worker], worker: _Worker) -> None:
        if self._units:
            worker.give(self._units.popleft())
        else:
            del workers[worker.pipe]
            _dismiss([worker])

    def _replace(self, worker: _Worker) -> None:
        """Put the unit of a dead worker back, without the sample it died of."""
        worker.process.join()
        code = worker.process.exitcode or 0
        if worker.unit is None or worker.sample is None:
            raise HpcJepaError(f"a worker process ended with exit code {code}; what it printed says why")
        self._advance(-worker.begun)
        fatal = dict(worker.unit.fatal)
        # Killed from outside, perhaps for memory others took: it gets a second chance.
        if -code in (signal.SIGKILL, signal.SIGTERM) and worker.sample not in self._killed:
            self._killed.add(worker.sample)
        else:
            fatal[worker.sample] = _cause(code)
        self._units.appendleft(worker.unit._replace(fatal=fatal))


def _cause(code: int) -> str:
    """What an exit code says about the sample."""
    if code >= 0:
        return f"crashes its process (exit code {code})"
    if -code == signal.SIGALRM:
        return f"takes longer than {SAMPLE_TIMEOUT} s"
    if -code == signal.SIGKILL:
        return "its process is killed each time (out of memory?)"
    return f"crashes its process ({signal.Signals(-code).name})"


def _dismiss(workers: Iterable[_Worker]) -> None:
    workers = list(workers)
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join()
        worker.pipe.close()


def _work(pipe: Connection, job: BuildContext) -> None:
    """What a worker does: units, until it is dismissed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        unit = pipe.recv()
        try:
            with _watched(pipe) as begin:
                built = job.build(unit, begin)
            pipe.send(built)
        except (HpcJepaError, OSError) as error:
            pipe.send(error)


@contextmanager
def _watched(pipe: Connection) -> Iterator[Callable[[int], None]]:
    """Tell of each sample and set the alarm, which ends the process: nothing else ends a decoder's endless loop."""

    def begin(index: int) -> None:
        pipe.send(index)
        signal.alarm(SAMPLE_TIMEOUT)

    try:
        yield begin
    finally:
        signal.alarm(0)


def _leave_with_parent() -> None:
    """Somebody must notice when the parent is killed while a worker is busy."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
