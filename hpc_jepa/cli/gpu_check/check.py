"""The whole check: run all parts one after the other, print a line for each, write the report."""

import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill
from types import FrameType

import hpc_jepa
from hpc_jepa.cli.gpu_check.check_report import (
    REHEARSAL,
    CheckReport,
    PartResult,
    clock,
    counts_line,
    label,
    shown,
)
from hpc_jepa.cli.gpu_check.children import visible_devices
from hpc_jepa.cli.gpu_check.part import Mode, Part, Row, Value
from hpc_jepa.cli.gpu_check.parts import PARTS
from hpc_jepa.cli.gpu_check.runner import StoppedError, run_part
from hpc_jepa.errors import InputError
from hpc_jepa.io.revision import code_revision
from hpc_jepa.training.shutdown import install_stop_handler

Print = Callable[[str], None]

REHEARSAL_PATIENCE = 5.0
"""A rehearsal may run on a busy machine."""
LOGS = "gpu_check_logs"
INDENT = 7 * " "


def check_gpu(parts: Sequence[Part], mode: Mode, out: Path, patience: float, show: Print) -> CheckReport:
    """Run the parts, print progress with ``show``, and write JSON, page and logs into the folder ``out``.

    patience: factor of all time limits. Ctrl-C ends the check; what is complete is written. Raises InputError if there
    is no GPU, except in a rehearsal.
    """
    machine = _machine(mode)
    out.mkdir(parents=True, exist_ok=True)
    if mode.rehearse:
        show(REHEARSAL)
    started, clock_started = datetime.now(UTC), time.monotonic()
    report = CheckReport(
        rehearsal=mode.rehearse,
        short=mode.short,
        interrupted=False,
        started=f"{started:%Y-%m-%d %H:%M} UTC",
        seconds=0.0,
        version=hpc_jepa.__version__,
        commit=code_revision(),
        machine=machine,
        parts=[],
    )
    factor = patience * (REHEARSAL_PATIENCE if mode.rehearse else 1.0)
    progress = _Progress(show, clock_started)
    with _stop_signals_interrupt(), TemporaryDirectory(prefix="gpu-check-") as scratch:
        try:
            for part in parts:
                report.parts.append(_run(part, mode, factor, Path(scratch), out / LOGS, progress))
        except (StoppedError, KeyboardInterrupt) as stop:
            report.interrupted = True
            report.parts += [stop.result] if isinstance(stop, StoppedError) else []
            report.parts += [_not_run(part, factor) for part in parts[len(report.parts) :]]
    report.seconds = time.monotonic() - clock_started
    paths = report.write(out)
    show(f"[{clock(report.seconds)}] {'stopped: ' if report.interrupted else ''}{counts_line(report.counts)}")
    show(f"{paths[0]} and {paths[1]}")
    return report


def _run(part: Part, mode: Mode, factor: float, scratch: Path, logs: Path, progress: "_Progress") -> PartResult:
    """One part; its log is kept beside the report."""
    folder, limit = scratch / part.name, factor * part.limit
    folder.mkdir()
    progress.begin(part, limit)
    try:
        result = run_part(part, mode, limit, folder, progress.row)
    finally:
        logs.mkdir(exist_ok=True)
        (folder / "output.txt").rename(logs / f"{part.name}.log")
    progress.end(result)
    return result


def chosen_parts(names: Sequence[str] | None, short: bool = False) -> list[Part]:
    """The parts with these names, or all; in the short form those that need no checkout. Raises InputError."""
    known = {part.name: part for part in PARTS if part.short or not short}
    if unknown := [name for name in names or () if name not in known]:
        raise InputError(f"--only {unknown[0]}: no such part; choose from {', '.join(known)}")
    return [part for name, part in known.items() if not names or name in names]


@contextmanager
def _stop_signals_interrupt() -> Iterator[None]:
    """Ctrl-C, and the signals of schedulers, raise KeyboardInterrupt once: the report is then written undisturbed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for handled in previous:
            signal.signal(handled, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = install_stop_handler(interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _not_run(part: Part, factor: float) -> PartResult:
    """The result of a part that was not started."""
    return PartResult(part.name, part.title, factor * part.limit, "skipped", "the check was stopped before its end")


def _machine(mode: Mode) -> str:
    """The device in one line. Raises InputError without a GPU."""
    if mode.rehearse:
        return f"CPU of {platform.machine()}, torch {version('torch')}"
    devices = visible_devices()
    if not devices.names:
        raise InputError(
            "no GPU is visible to torch: run this on a GPU node (hpc-jepa doctor names driver and torch build), "
            "or rehearse it on the CPU with REHEARSE=1 make gpu-check"
        )
    return f"{len(devices.names)} x {devices.names[0]}, torch {devices.torch}, CUDA {devices.cuda}"


class _Progress:
    """Prints a line when a part starts, for each of its rows, and when it ends, with the elapsed time."""

    def __init__(self, show: Print, started: float) -> None:
        self._print = show
        self._started = started
        self._columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def begin(self, part: Part, limit: float) -> None:
        """Before a part."""
        self._show(f"[{self._elapsed}] {part.name}: {part.title} (at most {limit:.0f} s)")

    def row(self, table: str, row: Row) -> None:
        """A row of a part."""
        (first, value), *others = ((name, value) for name, value in row.items() if value is not None)
        subject = value if isinstance(value, str) else _named(first, value)
        self._show(f"{INDENT}{subject}: {', '.join(_named(name, value) for name, value in others)}")

    def end(self, result: PartResult) -> None:
        """After a part."""
        for warning in result.warnings:
            self._show(f"{INDENT}note: {warning}")
        self._show(f"[{self._elapsed}] {result.name} {result.status.upper()}: {result.line}")

    def _show(self, line: str) -> None:
        """Print a line, wrapped on a terminal and whole in a pipe."""
        self._print(fill(line, self._columns, subsequent_indent=INDENT) if self._columns else line)

    @property
    def _elapsed(self) -> str:
        return clock(time.monotonic() - self._started)


def _named(name: str, value: Value) -> str:
    return f"{label(name)} {shown(value)}"
