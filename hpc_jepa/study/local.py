"""Run the cells of a study on this machine, several at a time, each command in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hpc_jepa.study.grid import Cell
from hpc_jepa.study.progress import Standing, standing

INTERRUPTED = 130
GLANCE = 0.5  # seconds between two looks at the running commands


@dataclass(frozen=True)
class Failure:
    """A command that failed: its last words, and the file that holds all of them."""

    cell: Cell
    words: str
    log: Path


Watch = Callable[[Cell, Standing], None]

Command = tuple[str, ...]
"""Arguments of ``hpc-jepa``."""


def run_study(cells: Sequence[Cell], jobs: int, watch: Watch) -> list[Failure]:
    """Pretrain and evaluate every cell, at most ``jobs`` commands at a time; what is done is not done again.

    A cell that fails does not stop the others. ``watch`` is told twice a second how far each cell is. Raises
    KeyboardInterrupt when a command was interrupted: the commands save before they leave.
    """
    failures: list[Failure] = []
    chains = {number: commands(cell) for number, cell in enumerate(cells)}
    with _commands_at_work(jobs) as (pool, run):
        submitted: dict[Future[Failure | None], tuple[int, Command]] = {}
        ready = list(chains)
        while ready or submitted:
            for number in ready:
                command = next(chains[number], None)
                if command is not None:
                    submitted[pool.submit(run, cells[number], command)] = (number, command)
            finished, _ = wait(submitted, timeout=GLANCE, return_when=FIRST_COMPLETED)
            ready = []
            for future in finished:
                (number, _), failure = submitted.pop(future), future.result()
                if failure is None:
                    ready.append(number)
                else:
                    failures.append(failure)
            at_work = {number: command for future, (number, command) in submitted.items() if future.running()}
            for number, cell in enumerate(cells):
                watch(cell, _while(at_work.get(number), standing(cell)))
    return failures


def commands(cell: Cell) -> Iterator[Command]:
    """Arguments of ``hpc-jepa`` that bring one cell to its end, one after the other."""
    if standing(cell).state != "done":
        yield ("train", *cell.arguments)
    for evaluation in cell.evaluations:
        for protocol in evaluation.protocols:
            weights = [word for name in evaluation.weights for word in ("--weights", name)]
            benchmark = ("--benchmark", evaluation.benchmark, "--protocol", protocol)
            yield ("evaluate", str(cell.config.folder), *benchmark, *weights)


def _while(command: Command | None, how: Standing) -> Standing:
    """What a command is at beside what the files of its run say."""
    if command is None or how.state == "running":
        return how
    if command[0] == "train":
        return how._replace(state="starting", note="")
    return how._replace(state="evaluating", note="")


@contextmanager
def _commands_at_work(jobs: int) -> Iterator[tuple[ThreadPoolExecutor, Callable[[Cell, Command], Failure | None]]]:
    """A thread for each of ``jobs`` commands. When the block fails those that run save and leave, and none follows."""
    pool, launcher = ThreadPoolExecutor(jobs), _Launcher(jobs)
    try:
        yield pool, launcher.run
    except BaseException:
        launcher.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Launcher:
    """Runs commands in sessions of their own: a Ctrl-C reaches them once, through ``stop``, not twice."""

    def __init__(self, jobs: int) -> None:
        self._threads = max((os.cpu_count() or 1) // jobs, 1)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping = False

    def run(self, cell: Cell, arguments: Command) -> Failure | None:
        """One command to its end. What it prints is added to ``log/`` of the run, one file per kind of command."""
        log = cell.config.folder / "log" / f"{arguments[0]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            code = self._exit_code(arguments, output)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code == 0:
            return None
        lines = log.read_text(encoding="utf-8").strip().splitlines()
        return Failure(cell, lines[-1] if lines else f"exit code {code}", log)

    def stop(self) -> None:
        """Ask what runs to save and leave."""
        self._stopping = True
        for process in tuple(self._running):
            process.terminate()

    def _exit_code(self, arguments: Command, output: BinaryIO) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "hpc_jepa", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(self._threads), **os.environ},
            start_new_session=True,
        )
        self._running.add(process)
        if self._stopping:  # asked between the start of the process and its entry in the list
            process.terminate()
        code = process.wait()
        self._running.discard(process)
        return code
