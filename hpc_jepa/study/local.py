"""Run the tasks of a study on this machine, several at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM

from hpc_jepa.errors import EXIT_INTERRUPTED
from hpc_jepa.study.grid import StudyCell
from hpc_jepa.study.records import is_evaluated
from hpc_jepa.study.status import CellStatus, cell_status
from hpc_jepa.study.task import StudyTask, TaskRunner, evaluation_task, last_log_line, training_task

POLL_INTERVAL = 0.5  # seconds between two looks at the running commands


@dataclass(frozen=True)
class FailedTask:
    """A task that failed: its last words, and the file that holds all of them."""

    cell: StudyCell
    words: str
    log: Path


OnStatus = Callable[[StudyCell, CellStatus], None]


def run_locally(cells: Sequence[StudyCell], jobs: int, watch: OnStatus) -> list[FailedTask]:
    """Pretrain and evaluate every cell, at most ``jobs`` at a time; what is done is not done again.

    A cell that fails does not stop the others. ``watch`` is told twice a second how far each cell is. Raises
    KeyboardInterrupt when a task was interrupted: the commands save before they leave.
    """
    failures: list[FailedTask] = []
    chains = {number: cell_tasks(cell) for number, cell in enumerate(cells)}
    with _workers(jobs) as (pool, do):
        submitted: dict[Future[int], tuple[int, StudyTask]] = {}
        ready = list(chains)
        while ready or submitted:
            coming = [(number, task) for number in ready if (task := next(chains[number], None))]
            submitted |= {pool.submit(do, task): (number, task) for number, task in coming}
            finished, _ = wait(submitted, timeout=POLL_INTERVAL, return_when=FIRST_COMPLETED)
            ended = [(*submitted.pop(future), future.result()) for future in finished]
            ready = [number for number, _, code in ended if code == 0]
            failures += [_failure(cells[number], task, code) for number, task, code in ended if code != 0]
            at_work = {number: task for future, (number, task) in submitted.items() if future.running()}
            for number, cell in enumerate(cells):
                watch(cell, _while(at_work.get(number), cell_status(cell)))
    return failures


def _failure(cell: StudyCell, task: StudyTask, code: int) -> FailedTask:
    """What a task left behind. Raises KeyboardInterrupt where it was not a failure but asked to stop."""
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return FailedTask(cell, last_log_line(task.log) or f"exit code {code}", task.log)


def cell_tasks(cell: StudyCell) -> Iterator[StudyTask]:
    """What brings one cell to its end, one after the other."""
    if cell_status(cell).state not in ("done", "trained"):
        yield training_task(cell)
    if not is_evaluated(cell):
        yield evaluation_task(cell)


def _while(task: StudyTask | None, status: CellStatus) -> CellStatus:
    """What a task is at beside what the files of its run say."""
    if task is None:
        return status
    if task.kind == "train":
        return status if status.state == "running" else replace(status, state="running", note="starting")
    return replace(status, state="evaluating", note="")


@contextmanager
def _workers(jobs: int) -> Iterator[tuple[ThreadPoolExecutor, Callable[[StudyTask], int]]]:
    """A thread for each of ``jobs`` tasks. When the block fails those that run save and leave, and none follows."""
    threads = max((os.cpu_count() or 1) // jobs, 1)
    pool, busy = ThreadPoolExecutor(jobs), set[TaskRunner]()

    def do(task: StudyTask) -> int:
        worker = TaskRunner(apart=True, threads=threads)
        busy.add(worker)
        try:
            return worker.run(task)
        finally:
            busy.discard(worker)

    try:
        yield pool, do
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in tuple(busy):
            worker.send_signal(SIGTERM)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
