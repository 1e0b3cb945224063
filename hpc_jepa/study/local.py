"""Run the tasks of a study on this machine, several at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM

from hpc_jepa.study.grid import Cell
from hpc_jepa.study.progress import Standing, standing
from hpc_jepa.study.records import is_evaluated
from hpc_jepa.study.task import INTERRUPTED, Task, Worker, evaluating, last_words, training

GLANCE = 0.5  # seconds between two looks at the running commands


@dataclass(frozen=True)
class Failure:
    """A task that failed: its last words, and the file that holds all of them."""

    cell: Cell
    words: str
    log: Path


Watch = Callable[[Cell, Standing], None]


def run_study(cells: Sequence[Cell], jobs: int, watch: Watch) -> list[Failure]:
    """Pretrain and evaluate every cell, at most ``jobs`` at a time; what is done is not done again.

    A cell that fails does not stop the others. ``watch`` is told twice a second how far each cell is. Raises
    KeyboardInterrupt when a task was interrupted: the commands save before they leave.
    """
    failures: list[Failure] = []
    chains = {number: tasks(cell) for number, cell in enumerate(cells)}
    with _workers(jobs) as (pool, do):
        submitted: dict[Future[int], tuple[int, Task]] = {}
        ready = list(chains)
        while ready or submitted:
            coming = [(number, task) for number in ready if (task := next(chains[number], None))]
            submitted |= {pool.submit(do, task): (number, task) for number, task in coming}
            finished, _ = wait(submitted, timeout=GLANCE, return_when=FIRST_COMPLETED)
            ended = [(*submitted.pop(future), future.result()) for future in finished]
            ready = [number for number, _, code in ended if code == 0]
            failures += [_failure(cells[number], task, code) for number, task, code in ended if code != 0]
            at_work = {number: task for future, (number, task) in submitted.items() if future.running()}
            for number, cell in enumerate(cells):
                watch(cell, _while(at_work.get(number), standing(cell)))
    return failures


def _failure(cell: Cell, task: Task, code: int) -> Failure:
    """What a task left behind. Raises KeyboardInterrupt where it was not a failure but asked to stop."""
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return Failure(cell, last_words(task.log) or f"exit code {code}", task.log)


def tasks(cell: Cell) -> Iterator[Task]:
    """What brings one cell to its end, one after the other."""
    if standing(cell).state not in ("done", "trained"):
        yield training(cell)
    if not is_evaluated(cell):
        yield evaluating(cell)


def _while(task: Task | None, how: Standing) -> Standing:
    """What a task is at beside what the files of its run say."""
    if task is None:
        return how
    if task.kind == "train":
        return how if how.state == "running" else replace(how, state="running", note="starting")
    return replace(how, state="evaluating", note="")


@contextmanager
def _workers(jobs: int) -> Iterator[tuple[ThreadPoolExecutor, Callable[[Task], int]]]:
    """A thread for each of ``jobs`` tasks. When the block fails those that run save and leave, and none follows."""
    threads = max((os.cpu_count() or 1) // jobs, 1)
    pool, busy = ThreadPoolExecutor(jobs), set[Worker]()

    def do(task: Task) -> int:
        worker = Worker(apart=True, threads=threads)
        busy.add(worker)
        try:
            return worker.do(task)
        finally:
            busy.discard(worker)

    try:
        yield pool, do
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in tuple(busy):
            worker.ask(SIGTERM)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
