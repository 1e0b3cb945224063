"""The worker pool of a build, which survives crashes and hangs of single samples.

A worker reports each sample before it reads it. If a file crashes a decoder or makes it hang, the worker is replaced
and its task restarts without that sample.
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
"""Seconds for one sample; a worker that takes longer is killed."""

Advance = Callable[[int], object]


class BuildContext(NamedTuple):
    """Inputs shared by all tasks of a build."""

    source: DataSource
    folder: Path
    recipe: Recipe

    def run(self, task: BuildTask, on_sample: Callable[[int], object]) -> BuildTaskResult:
        """Run one task in this process."""
        return run_build_task(self.source, task, self.folder, self.recipe, on_sample)


def run_build_tasks(
    context: BuildContext, tasks: Iterable[BuildTask], workers: int, advance: Advance
) -> Iterator[BuildTaskResult]:
    """Run tasks in ``workers`` processes, or in this one if it is 0; yields results as they arrive.

    ``advance(n)`` adds n to the number of samples started. Raises HpcJepaError and OSError of the workers.
    """
    if workers:
        yield from _WorkerPool(context, deque(tasks), workers, advance).run()
        return
    for task in tasks:
        yield context.run(task, lambda index: advance(1))


class _Worker:
    """A worker process, its current task and sample."""

    def __init__(self, build: BuildContext) -> None:
        # The fork server has no threads and imports the program and this module once for all workers.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", __name__])
        self.pipe, child_pipe = context.Pipe()
        self.process: ForkServerProcess = context.Process(target=_worker_main, args=(child_pipe, build), daemon=True)
        self.process.start()
        child_pipe.close()
        self.task: BuildTask | None = None
        self.sample: int | None = None
        self.started = 0

    def assign(self, task: BuildTask) -> None:
        """Send a task."""
        self.task, self.sample, self.started = task, None, 0
        with suppress(BrokenPipeError):  # a dead worker is handled when its pipe is read
            self.pipe.send(task)


class _WorkerPool:
    """Keeps every worker busy until all tasks are done."""

    def __init__(self, context: BuildContext, tasks: deque[BuildTask], workers: int, advance: Advance) -> None:
        self._context = context
        self._tasks = tasks
        self._advance = advance
        self._count = min(workers, len(tasks))
        self._killed: set[int] = set()
        self._workers: dict[Connection, _Worker] = {}

    def run(self) -> Iterator[BuildTaskResult]:
        """Results in the order of completion."""
        try:
            for _ in range(self._count):
                self._start_worker()
            while self._workers:
                for pipe in wait(list(self._workers)):
                    assert isinstance(pipe, Connection)
                    result = self._receive(self._workers[pipe])
                    if result is not None:
                        yield result
        finally:
            _terminate(self._workers.values())

    def _start_worker(self) -> None:
        if self._tasks:
            worker = _Worker(self._context)
            self._workers[worker.pipe] = worker
            worker.assign(self._tasks.popleft())

    def _receive(self, worker: _Worker) -> BuildTaskResult | None:
        """Handle one message: a sample was started, a result, an error, or the end of the process."""
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            del self._workers[worker.pipe]
            self._requeue_task(worker)
            self._start_worker()
            return None
        if isinstance(message, int):
            worker.sample = message
            worker.started += 1
            self._advance(1)
            return None
        if isinstance(message, Exception):
            raise message
        assert isinstance(message, BuildTaskResult)
        if self._tasks:
            worker.assign(self._tasks.popleft())
        else:
            del self._workers[worker.pipe]
            _terminate([worker])
        return message

    def _requeue_task(self, worker: _Worker) -> None:
        """Put the task of a dead worker back, without the sample that killed it."""
        worker.process.join()
        code = worker.process.exitcode or 0
        if worker.task is None or worker.sample is None:
            raise HpcJepaError(f"a worker process ended with exit code {code}; its output above has the reason")
        self._advance(-worker.started)
        fatal = dict(worker.task.fatal)
        # Killed from outside, perhaps because other processes used up the memory: retry the sample once.
        if -code in (signal.SIGKILL, signal.SIGTERM) and worker.sample not in self._killed:
            self._killed.add(worker.sample)
        else:
            fatal[worker.sample] = _exit_reason(code)
        self._tasks.appendleft(worker.task._replace(fatal=fatal))


def _exit_reason(code: int) -> str:
    """The reason for dropping a sample, from the exit code of its worker."""
    if code >= 0:
        return f"crashes its process (exit code {code})"
    if -code == signal.SIGALRM:
        return f"takes longer than {SAMPLE_TIMEOUT} s"
    if -code == signal.SIGKILL:
        return "its process is killed each time (out of memory?)"
    return f"crashes its process ({signal.Signals(-code).name})"


def _terminate(workers: Iterable[_Worker]) -> None:
    workers = list(workers)
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join()
        worker.pipe.close()


def _worker_main(pipe: Connection, context: BuildContext) -> None:
    """Run tasks until the process is terminated."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    while True:
        task = pipe.recv()
        try:
            with _sample_alarm(pipe) as on_sample:
                result = context.run(task, on_sample)
            pipe.send(result)
        except (HpcJepaError, OSError) as error:
            pipe.send(error)


@contextmanager
def _sample_alarm(pipe: Connection) -> Iterator[Callable[[int], None]]:
    """Report each sample and arm an alarm that kills the process: nothing else ends an endless loop in a decoder."""

    def on_sample(index: int) -> None:
        pipe.send(index)
        signal.alarm(SAMPLE_TIMEOUT)

    try:
        yield on_sample
    finally:
        signal.alarm(0)


def _exit_with_parent() -> None:
    """End a busy worker whose parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        try:
            parent.join()
        finally:
            os._exit(1)
