"""Run the tasks of a study on this machine, several at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from hpc_jepa.devices import VISIBLE
from hpc_jepa.errors import EXIT_INTERRUPTED, DataError, InputError
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.fork_server import ForkServer, can_fork
from hpc_jepa.study.slots import Slot, TaskSlots
from hpc_jepa.study.status import CellStatus, cell_status, is_evaluated, status_or_damaged, unevaluated_steps
from hpc_jepa.study.task import StudyTask, evaluation_task, last_log_line, online_task, training_task

POLL_INTERVAL = 0.5  # seconds


@dataclass(frozen=True)
class FailedTask:
    """A cell with a failed task, the last line of its log, and the log file."""

    cell: StudyCell
    message: str
    log: Path


OnStatus = Callable[[StudyCell, CellStatus], None]


@dataclass(frozen=True)
class LocalJobs:
    """How many tasks run at a time, the GPUs of each, as values of CUDA_VISIBLE_DEVICES, and its number of processes.

    No ``gpus``: the CPU.
    """

    count: int
    gpus: tuple[str, ...] = ()
    processes: int = 1

    @classmethod
    def plan(
        cls, gpus: Sequence[str], cores: int, cells: int, requested: int | None = None, processes: int = 1
    ) -> "LocalJobs":
        """``requested`` tasks; None: as many as have a GPU, or without GPUs a core, for each of their processes. More
        tasks share the GPUs. Raises InputError if there are fewer GPUs than a task has processes.
        """
        if 0 < len(gpus) < processes:
            raise InputError(
                f"--processes {processes}: each takes a GPU, and {len(gpus)} {'is' if len(gpus) == 1 else 'are'} "
                f"visible; use --processes {len(gpus)}, and engine.accumulation for the same batch size"
            )
        groups = [",".join(gpus[first : first + processes]) for first in range(0, len(gpus) - processes + 1, processes)]
        count = requested or min(len(groups) or max(cores // processes, 1), cells)
        return cls(count, tuple(islice(cycle(groups), count)), processes)

    def __str__(self) -> str:
        tasks = "1 task" if self.count == 1 else f"{self.count} tasks"
        if self.processes > 1:
            tasks += f" of {self.processes} processes"
        if not self.gpus:
            return f"{tasks} at a time, on the CPU"
        names = list(dict.fromkeys(self.gpus))
        several = len(names) > 1 or self.processes > 1
        where = f"{tasks} at a time on GPU{'s' if several else ''} {', '.join(names)}"
        if len(names) < self.count:
            return f"{where}, which they share"
        return where if self.count == 1 else f"{where}, {'one' if self.processes == 1 else self.processes} each"


def run_locally(cells: Sequence[StudyCell], jobs: LocalJobs, on_status: OnStatus) -> list[FailedTask]:
    """Train and evaluate all cells that are not done; the failed tasks.

    A failed cell, or one with a damaged file, does not stop the others, but those of later phases that begin with its
    last checkpoint fail too. ``on_status`` is called for each cell every POLL_INTERVAL. Raises KeyboardInterrupt if a
    task was interrupted; running commands save first.
    """
    failures: list[FailedTask] = []
    chains = {number: cell_tasks(cell) for number, cell in enumerate(cells)}
    with _task_slots(jobs) as slots:
        submitted: dict[Future[int], tuple[int, StudyTask]] = {}
        later, online = _LaterCells(cells), _OnlineEvaluations(cells)
        ready = [number for number in chains if number not in later]
        while ready or submitted:
            begun = [(number, _next_task(cells[number], chains[number])) for number in ready]
            broken = [task for _, task in begun if isinstance(task, FailedTask)]
            failures += [failed for task in broken for failed in (task, *later.fail_after(task))]
            submitted |= {
                slots.submit(task): (number, task)
                for number, task in begun
                if task is not None and not isinstance(task, FailedTask)
            }
            training = [
                number for future, (number, task) in submitted.items() if task.kind == "train" and future.running()
            ]
            for number, task in online.due(training, jobs.count - len(submitted)):
                submitted[slots.submit(task)] = (number, task)
            done, _ = wait(submitted, timeout=POLL_INTERVAL, return_when=FIRST_COMPLETED)
            ended = online.without_own([(*submitted.pop(future), future.result()) for future in done])
            failed = [(task, _failure(cells[number], task, code)) for number, task, code in ended if code != 0]
            failures += [each for task, failure in failed for each in (failure, *later.fail_with(task, failure))]
            ready = online.released([number for number, _, code in ended if code == 0])
            ready += [each for number, task, code in ended if code == 0 for each in later.released(task, cells[number])]
            running = {
                number: task
                for future, (number, task) in submitted.items()
                if future.running() and task.kind != "follow"
            }
            for number, cell in enumerate(cells):
                on_status(cell, _running_status(running.get(number), status_or_damaged(cell)))
    return failures


class _LaterCells:
    """Cells that begin with the last checkpoint of another cell, which has not been trained yet."""

    def __init__(self, cells: Sequence[StudyCell]) -> None:
        self._cells = cells
        folders = {cell.folder for cell in cells}
        self._numbers = {number for number, cell in enumerate(cells) if cell.after in folders and _waits(cell)}

    def __contains__(self, number: int) -> bool:
        """Whether the cell waits."""
        return number in self._numbers

    def released(self, task: StudyTask, cell: StudyCell) -> list[int]:
        """The cells that may start because this task of ``cell`` has succeeded."""
        return self._take_after(cell) if task.kind == "train" else []

    def fail_with(self, task: StudyTask, failed: FailedTask) -> list[FailedTask]:
        """The cells that cannot start because this task has failed."""
        return self.fail_after(failed) if task.kind == "train" else []

    def _take_after(self, trained: StudyCell) -> list[int]:
        """The cells that begin after ``trained``; they no longer wait."""
        released = [number for number in sorted(self._numbers) if self._cells[number].after == trained.folder]
        self._numbers -= set(released)
        return released

    def fail_after(self, failed: FailedTask) -> list[FailedTask]:
        """The cells that cannot start, and those after them."""
        failures = []
        for number in self._take_after(failed.cell):
            message = f"not started: {failed.cell.folder} failed"
            failures.append(FailedTask(self._cells[number], message, failed.log))
            failures += self.fail_after(failures[-1])
        return failures


class _OnlineEvaluations:
    """Evaluations of checkpoints beside the training of their run, one at a time, in slots that are free.

    What they leave is the work of the last evaluation, which also reports why one of them failed.
    """

    def __init__(self, cells: Sequence[StudyCell]) -> None:
        self._cells = cells
        self._running = set[int]()
        self._failed = set[int]()
        self._held: list[int] = []

    def due(self, training: Sequence[int], slots: int) -> Iterator[tuple[int, StudyTask]]:
        """Cells in training with checkpoints to evaluate, and their tasks, as many as there are free slots."""
        for number in training:
            evaluation = self._cells[number].online
            idle = number not in self._running and number not in self._failed
            if slots > 0 and evaluation and idle and unevaluated_steps(self._cells[number], evaluation):
                slots -= 1
                self._running.add(number)
                yield number, online_task(self._cells[number], follow=False)

    def without_own(self, ended: Sequence[tuple[int, StudyTask, int]]) -> list[tuple[int, StudyTask, int]]:
        """The ended tasks of others, by number, task and exit code. Raises KeyboardInterrupt if one was interrupted."""
        for number, task, code in ended:
            if task.kind == "follow":
                self._running.discard(number)
                if code == EXIT_INTERRUPTED:
                    raise KeyboardInterrupt
                if code:
                    self._failed.add(number)
        return [each for each in ended if each[1].kind != "follow"]

    def released(self, numbers: Sequence[int]) -> list[int]:
        """Cells whose next task may start: not while one of their checkpoints is being evaluated."""
        waiting = [*self._held, *numbers]
        self._held = [number for number in waiting if number in self._running]
        return [number for number in waiting if number not in self._running]


def _waits(cell: StudyCell) -> bool:
    """Whether the cell waits; one that begins after a damaged run does: its own turn will name the damage."""
    try:
        return cell.waits
    except DataError:
        return True


def cell_tasks(cell: StudyCell) -> Iterator[StudyTask]:
    """Unfinished tasks of one cell in their order. Read the next one only when the last has ended.

    Raises DataError if a file of the run is damaged, InputError if a folder of it is a link that leads out of it, or if
    it is a run of another study that a process trains now.
    """
    cell.run.refuse_links_outside()
    state = cell_status(cell).state
    if cell.reused and state == "running":
        raise InputError(
            f"{cell.folder}: a run of {cell.reused_from} that is being trained; repeat study submit when it is done"
        )
    if state not in ("done", "trained"):
        yield training_task(cell)
    if not is_evaluated(cell):
        yield evaluation_task(cell)


def _next_task(cell: StudyCell, tasks: Iterator[StudyTask]) -> StudyTask | FailedTask | None:
    """The next task of a cell, None if there is none, a failure if a file of its run is damaged."""
    try:
        return next(tasks, None)
    except (DataError, InputError) as error:
        return FailedTask(cell, str(error), cell.folder)


def _failure(cell: StudyCell, task: StudyTask, code: int) -> FailedTask:
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return FailedTask(cell, last_log_line(task.log) or f"exit code {code}", task.log)


def _running_status(task: StudyTask | None, status: CellStatus) -> CellStatus:
    """Correct the status from run files, which a starting command has not written yet, by the running task."""
    if task is None:
        return status
    if task.kind == "train":
        return status if status.state == "running" else replace(status, state="running", note="starting")
    return replace(status, state="evaluating", note="")


@contextmanager
def _task_slots(jobs: LocalJobs) -> Iterator[TaskSlots]:
    """One slot for each task at a time, with its planned GPUs.

    Without GPUs, and with one process for each task, commands are forks of one process that has imported everything.
    """
    slots = [Slot({VISIBLE: gpu}) for gpu in jobs.gpus] or [Slot()] * jobs.count
    threads = max((os.cpu_count() or 1) // (jobs.count * jobs.processes), 1)
    with ExitStack() as stack:
        forks = not jobs.gpus and jobs.processes == 1 and can_fork()
        start = stack.enter_context(ForkServer()).start if forks else None
        yield stack.enter_context(TaskSlots(slots, processes=jobs.processes, threads=threads, start=start))
