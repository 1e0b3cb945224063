"""Units of work of a study, and how any executor does one: commands of ``hpc-jepa``, one after the other."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Literal

from hpc_jepa.errors import EXIT_INTERRUPTED
from hpc_jepa.study.grid import StudyCell
from hpc_jepa.training.walltime import WallTime

TaskKind = Literal["train", "evaluate", "report"]
Command = tuple[str, ...]
"""Arguments of ``hpc-jepa``."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals by which a scheduler asks to save and leave."""


@dataclass(frozen=True)
class StudyTask:
    """Commands that belong together, and the file that all they print is added to."""

    kind: TaskKind
    folder: Path
    commands: tuple[Command, ...]

    @property
    def log(self) -> Path:
        """One file per kind of task; processes of a job beside the first have their own."""
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        return self.folder / "log" / (f"{self.kind}-rank-{rank}.log" if rank else f"{self.kind}.log")


def training_task(cell: StudyCell) -> StudyTask:
    """Bring a run to its last step."""
    return StudyTask("train", cell.folder, (("train", *cell.arguments),))


def evaluation_task(cell: StudyCell) -> StudyTask:
    """All records of a run."""
    run = str(cell.folder)
    return StudyTask(
        "evaluate", cell.folder, tuple(("evaluate", run, *wanted.arguments) for wanted in cell.evaluations)
    )


def report_task(study: Path) -> StudyTask:
    """The report of what there is."""
    return StudyTask("report", study, (("report", str(study)),))


class TaskRunner:
    """Does one task at a time, each command in a process of its own.

    ``apart``: in a session of its own, too, which a Ctrl-C in the terminal reaches once, through ``ask``, not twice.
    ``threads``: of each process, unless the environment says otherwise.
    """

    def __init__(self, *, apart: bool = False, threads: int | None = None) -> None:
        self._apart = apart
        self._environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        self._process: subprocess.Popen[bytes] | None = None
        self._signal: int | None = None

    def run(self, task: StudyTask) -> int:
        """The exit code: 0, or that of the command that did not end well, after which none follows.

        A command that may not fit into the time that is left is not started; then the task counts as interrupted.
        """
        task.log.parent.mkdir(parents=True, exist_ok=True)
        time_left = WallTime.from_environment()
        with task.log.open("ab") as output:
            for command in task.commands:
                if self._signal or not time_left.fits_another():
                    return EXIT_INTERRUPTED
                with time_left.timed():
                    code = self._run(command, output)
                if code != 0:
                    return EXIT_INTERRUPTED if -code in STOP_SIGNALS else code
        return 0

    def send_signal(self, number: int) -> None:
        """Pass a signal on; no further command is started."""
        self._signal = number
        if self._process is not None:
            self._process.send_signal(number)

    def _run(self, command: Command, output: BinaryIO) -> int:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hpc_jepa", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**self._environment, **os.environ},
            start_new_session=self._apart,
        )
        if self._signal:  # between the start of the process and here
            self._process.send_signal(self._signal)
        return self._process.wait()


def run_in_job(task: StudyTask) -> None:
    """Do a task in a job of a cluster; leaves with its exit code.

    Signals are passed on to the command, which saves; handlers of submitit would queue the job again before that.
    """
    worker = TaskRunner()
    with _passed_on(worker):
        code = worker.run(task)
    if code:
        sys.exit(code)


def last_log_line(log: Path) -> str:
    """The last line of a log, empty where there is none."""
    if not log.is_file():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


@contextmanager
def _passed_on(worker: TaskRunner) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        worker.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
