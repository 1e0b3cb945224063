"""Places in which tasks run at the same time: as processes of this machine, or each as a step of a Slurm job."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from signal import SIGTERM
from types import TracebackType

from hpc_jepa.study.task import StartCommand, StudyTask, TaskRunner


@dataclass(frozen=True)
class Slot:
    """What the commands of one task at a time get.

    ``environment``: variables, None removes one. ``cores``: the ones that they run on; none: all of this process.
    ``prefix``: words before a command, which start it elsewhere.
    """

    environment: Mapping[str, str | None] = field(default_factory=dict)
    cores: frozenset[int] = frozenset()
    prefix: tuple[str, ...] = ()


class TaskSlots:
    """Runs each task in a free slot, in a thread of its own; ``processes``, ``threads``, ``start`` as of a TaskRunner.

    A context: on an exception the running commands get SIGTERM, and their end is awaited.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        processes: int = 1,
        threads: int | None = None,
        start: StartCommand | None = None,
    ) -> None:
        self._processes, self._threads, self._start = processes, threads, start
        self._pool = ThreadPoolExecutor(len(slots))
        self._busy: dict[TaskRunner, StudyTask] = {}
        self._signal: int | None = None
        self._free = SimpleQueue[Slot]()
        for slot in slots:
            self._free.put(slot)

    def submit(self, task: StudyTask) -> "Future[int]":
        """Run a task as soon as a slot is free; its exit code."""
        return self._pool.submit(self._run, task)

    def send_signal(self, number: int, task: StudyTask | None = None) -> None:
        """Forward a signal to the running commands, or to those of one task; they start no further one.

        Without a task it also stops those that have not started yet.
        """
        if task is None:
            self._signal = number
        for runner, running in tuple(self._busy.items()):
            if task is None or task == running:
                runner.send_signal(number)

    def __enter__(self) -> "TaskSlots":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self.send_signal(SIGTERM)
        self._pool.shutdown(cancel_futures=True)

    def _run(self, task: StudyTask) -> int:
        slot = self._free.get()
        try:
            runner = TaskRunner(
                new_session=True,
                threads=self._threads,
                environment=slot.environment,
                processes=self._processes,
                prefix=slot.prefix,
                start=self._start,
            )
            self._busy[runner] = task
            if self._signal is not None:  # it came before this runner was known
                runner.send_signal(self._signal)
            if slot.cores:
                os.sched_setaffinity(0, slot.cores)  # of this thread; its children inherit it
            try:
                return runner.run(task)
            finally:
                del self._busy[runner]
        finally:
            self._free.put(slot)
