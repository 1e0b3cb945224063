"""Tasks of a study and how to run them: each is a list of ``hpc-jepa`` commands and a log file."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import BinaryIO, Literal, Protocol

from hpc_jepa.config.cluster import COMMAND_NUMBER
from hpc_jepa.errors import EXIT_INTERRUPTED
from hpc_jepa.io.atomic import no_follow
from hpc_jepa.runs.run_dir import StudyDir, task_log_file
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.training.shutdown import WallTime

TaskKind = Literal["train", "evaluate", "follow", "report", "look"]
Command = tuple[str, ...]
"""Arguments of ``hpc-jepa``."""

GRACE_SECONDS = 60.0
POLL_SECONDS = 0.1

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals after which a command saves and exits."""


@dataclass(frozen=True)
class StudyTask:
    """Commands that run one after the other, and the log file that their output is appended to."""

    kind: TaskKind
    folder: Path
    commands: tuple[Command, ...]

    @property
    def log(self) -> Path:
        """One file per kind of task; every other process of a Slurm job has its own."""
        return self.log_of(int(os.environ.get("SLURM_PROCID", "0")))

    def log_of(self, rank: int) -> Path:
        """The log file of one process."""
        return task_log_file(self.folder, self.kind, rank)


def training_task(cell: StudyCell) -> StudyTask:
    """Train a run to its last step, or for the steps that its looks need."""
    until = () if cell.until is None else ("--until", str(cell.until))
    return StudyTask("train", cell.folder, (("train", *until, *cell.arguments),))


def evaluation_task(cell: StudyCell) -> StudyTask:
    """Write all evaluation records of a run."""
    commands = (arguments for evaluation in cell.evaluations for arguments in evaluation.commands)
    return StudyTask("evaluate", cell.folder, tuple(("evaluate", str(cell.folder), *each) for each in commands))


def online_task(cell: StudyCell, *, follow: bool) -> StudyTask:
    """Evaluate the checkpoints of a run in training: those that it has now, or with ``follow`` until it has ended."""
    assert cell.online is not None, "the study evaluates no checkpoints online"
    command = ("evaluate", str(cell.folder), *cell.online.steps_command, *(["--follow"] if follow else []))
    return StudyTask("follow", cell.folder, (command,))


def report_task(study: Path) -> StudyTask:
    """Report all finished evaluations of a study."""
    return StudyTask("report", study, (("report", str(study)),))


def look_task(study: StudyDir, profile: Path) -> StudyTask:
    """Decide the comparisons of a sequential study after a look, and submit the next look."""
    where = ("--cluster", str(profile), "--runs", str(study.path.parent))
    command = ("study", "submit", str(study.config_file), *where, "--skip-failed")
    return StudyTask("look", study.path, (command,))


class CommandProcess(Protocol):
    """A command that has been started."""

    def wait(self) -> int:
        """The exit code when it has ended; of a signal the negative number."""

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""


StartCommand = Callable[[Command, Mapping[str, str], BinaryIO], CommandProcess]
"""Starts a command in a new session with these variables; the file takes its output and its errors."""


class TaskRunner:
    """Runs one task at a time, each command in a child process, or in several as one process group.

    ``new_session``: start the children in a new session, so that Ctrl-C in the terminal reaches them only once, through
    ``send_signal``. ``threads``: OMP_NUM_THREADS of the children unless the environment sets it. ``environment``:
    other variables of the children, in place of those of this process; None removes one. ``processes``: children per
    command, the ranks of a process group on this machine. ``prefix``: words before a command, which start it elsewhere
    and print its output, signals included; what they print about themselves goes to the errors of this process.
    ``start``: starts the only child of a command in another way, in a new session and without a prefix.
    """

    def __init__(
        self,
        *,
        new_session: bool = False,
        threads: int | None = None,
        environment: Mapping[str, str | None] | None = None,
        processes: int = 1,
        prefix: tuple[str, ...] = (),
        start: StartCommand | None = None,
    ) -> None:
        self._new_session = new_session
        self._defaults = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        self._environment = environment or {}
        self._count = processes
        self._prefix = prefix
        self._start = start
        self._processes: Sequence[CommandProcess] = ()
        self._signal: int | None = None

    def run(self, task: StudyTask) -> int:
        """Run the commands up to the first that fails; the exit code of the last one.

        Returns EXIT_INTERRUPTED after a stop signal, and if the next command may not fit into the remaining wall time.
        """
        task.log.parent.mkdir(parents=True, exist_ok=True)
        time_left = WallTime.from_environment()
        logs = [task.log] if self._count == 1 else [task.log_of(rank) for rank in range(self._count)]
        with ExitStack() as stack:
            outputs = [stack.enter_context(open(log, "ab", opener=no_follow)) for log in logs]
            for number, command in enumerate(task.commands):
                if self._signal or not time_left.fits_another():
                    return EXIT_INTERRUPTED
                with time_left.timed():
                    code = self._run(command, number, outputs)
                if code != 0:
                    return EXIT_INTERRUPTED if _stopped(code) else code
        return 0

    def send_signal(self, number: int) -> None:
        """Forward a signal to the running command and start no further one."""
        self._signal = number
        for process in tuple(self._processes):
            process.send_signal(number)

    def _run(self, command: Command, number: int, outputs: Sequence[BinaryIO]) -> int:
        if self._start is not None:
            only = self._start(command, self._variables(number), outputs[0])
            self._processes = [only]
            self._pass_early_signal(only)
            return only.wait()
        group = {} if self._count == 1 else {"WORLD_SIZE": str(self._count), **_meeting_place()}
        started: list[subprocess.Popen[bytes]] = []
        self._processes = started
        for rank, output in enumerate(outputs):
            process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "hpc_jepa", *command],
                stdout=output,
                stderr=None if self._prefix else subprocess.STDOUT,
                env=self._variables(number, {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if group else {}),
                start_new_session=self._new_session,
            )
            started.append(process)
            self._pass_early_signal(process)
        return _wait_for_all(started)

    def _variables(self, number: int, own: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
        """The environment of one child of the command of this number, with its ``own`` variables."""
        variables = {**self._defaults, **os.environ, **self._environment, **own, COMMAND_NUMBER: str(number)}
        return {name: value for name, value in variables.items() if value is not None}

    def _pass_early_signal(self, process: CommandProcess) -> None:
        """Pass on a signal that arrived while the process was starting."""
        if self._signal:
            process.send_signal(self._signal)


def _meeting_place() -> dict[str, str]:
    """Address and a free port of this machine, where the processes of a command meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}


def _wait_for_all(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """The exit code of the first process that fails, 0 if none does.

    The others usually end by themselves then, with an error of their own; after GRACE_SECONDS they are killed.
    """
    if len(processes) == 1:
        return processes[0].wait()
    deadline = math.inf
    failed = 0
    while running := [process for process in processes if process.poll() is None]:
        if not failed and (failed := _first_failure(processes)):
            deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            for process in running:
                process.kill()
        time.sleep(POLL_SECONDS)
    return failed or _first_failure(processes)


def _first_failure(processes: Iterable[subprocess.Popen[bytes]]) -> int:
    """The exit code of an ended process that failed, 0 if none did."""
    return next((process.returncode for process in processes if process.returncode), 0)


def _stopped(code: int) -> bool:
    """Whether a command was ended by a stop signal before it could handle it; a shell or srun adds 128 to it."""
    return -code in STOP_SIGNALS or code - 128 in STOP_SIGNALS


def run_in_job(task: StudyTask) -> None:
    """Run a task in a Slurm job and exit with its exit code.

    Signals are forwarded to the command, which saves. Submitit's own handlers would requeue the job before that.
    """
    runner = TaskRunner()
    with forwarded_signals(runner.send_signal):
        code = runner.run(task)
    if code:
        sys.exit(code)


def last_log_line(log: Path) -> str:
    """The last line of a log file, empty if there is none."""
    if not log.is_file():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


@contextmanager
def forwarded_signals(send_signal: Callable[[int], None]) -> Iterator[None]:
    """Pass stop signals on instead of ending this process."""

    def forward(number: int, frame: FrameType | None) -> None:
        send_signal(number)

    previous = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# Pickles of Slurm jobs that release 0.1 submitted refer to these names.
in_job, Task = run_in_job, StudyTask
