"""Progress bars and messages on standard error, tables on standard output."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from hpc_jepa.io.escape import SafeConsole

CONSOLE = SafeConsole(stderr=True, soft_wrap=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

LINE_INTERVAL = 60.0
"""Seconds between lines of progress in a pipe or a file."""
MOST_LINES = 20
LONGEST = 1e11
"""Seconds of the longest duration that is shown."""
PIPED_WIDTH = 250
"""Table width in characters when the output is a pipe or a file."""


def stdout_console() -> SafeConsole:
    """Console for standard output. In a pipe it is wide enough that ``grep`` finds unwrapped names."""
    console = SafeConsole(highlight=False)
    return console if console.is_terminal else SafeConsole(highlight=False, width=PIPED_WIDTH)


def examples(*commands: str) -> str:
    """Epilog of a command's help: one example per paragraph."""
    return "\n\n  ".join(["Examples:" if len(commands) > 1 else "Example:", *commands])


def plural(number: int, singular: str, plural_form: str) -> str:
    """A number with its noun in the singular or plural."""
    return f"{number:,} {singular if number == 1 else plural_form}"


class ConsoleHandler(logging.Handler):
    """Log handler that prints above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        CONSOLE.print(self.format(record), highlight=False)


Advance = Callable[..., None]


class TimeColumn(ProgressColumn):
    """Estimated time left, then (if ``show_total``) the total time."""

    def __init__(self, show_total: bool) -> None:
        super().__init__(Column(no_wrap=True))
        self._show_total = show_total

    def render(self, task: Task) -> Text:
        """Empty until the time left can be estimated."""
        if task.finished_time is not None:
            return Text(f"in {clock(task.finished_time)}" if self._show_total else "")
        return Text("" if task.time_remaining is None else f"{clock(task.time_remaining)} left")


def clock(seconds: float) -> str:
    """A duration as ``1 day, 2:03:04``; empty if it is none: damaged files can hold any number."""
    return str(timedelta(seconds=round(seconds))) if abs(seconds) < LONGEST else ""


def _columns(show_total: bool) -> tuple[ProgressColumn, ...]:
    """Columns of a progress bar; on a narrow terminal only the bar shrinks."""
    return (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}", justify="right"),
        TimeColumn(show_total),
        TextColumn("{task.fields[note]}", markup=False),
    )


class _ProgressLines:
    """Where there is no terminal: a line for each bar that has moved, once per LINE_INTERVAL."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._printed = time.monotonic()
        self._completed: dict[int, float] = {}

    def update(self) -> None:
        """Print the lines that are due."""
        if CONSOLE.is_terminal or time.monotonic() - self._printed < LINE_INTERVAL:
            return
        self._printed = time.monotonic()
        moved = [task for task in self._bars.tasks if self._completed.get(task.id, 0) != task.completed]
        for task in moved[:MOST_LINES]:
            left = "" if task.time_remaining is None else f"{clock(task.time_remaining)} left"
            parts = (task.description, f"{task.completed:.0f}/{task.total:.0f}", left, task.fields["note"])
            CONSOLE.print("  ".join(part for part in parts if part), highlight=False)
        if len(moved) > MOST_LINES:
            CONSOLE.print(f"and {len(moved) - MOST_LINES} more", highlight=False)
        self._completed = {task.id: task.completed for task in self._bars.tasks}


@contextmanager
def _bars(show_total: bool) -> Iterator[Progress]:
    """Bars that remain on success and disappear before an error message."""
    with Progress(*_columns(show_total), console=CONSOLE) as bars:
        try:
            yield bars
        except BaseException:
            bars.live.transient = True
            bars.live.stop()
            bars.disable = True  # Progress.stop would print an empty line into a pipe or file
            raise


@contextmanager
def progress_bars(labels: Sequence[str], totals: Sequence[int]) -> Iterator[Callable[[int, int, str], None]]:
    """One bar per run. Yields ``show(index, step, note)``."""
    with _bars(show_total=False) as bars:
        tasks = [bars.add_task(label, total=total, note="") for label, total in zip(labels, totals, strict=True)]
        lines = _ProgressLines(bars)

        def show(index: int, step: int, note: str) -> None:
            bars.update(tasks[index], completed=step, note=note)
            lines.update()

        yield show


@contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """One bar with count and time. Yields ``advance(amount=1, note="")``.

    done: units of ``total`` completed by an earlier attempt.
    """
    with _bars(show_total=True) as bars:
        task = bars.add_task(title, total=total, completed=done, note="")
        lines = _ProgressLines(bars)

        def advance(amount: int = 1, note: str = "") -> None:
            if note:
                bars.update(task, advance=amount, note=note)
            else:
                bars.update(task, advance=amount)
            lines.update()

        yield advance


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Configuration files and ``key.sub=value`` overrides of a command line, each in its order.

    Folders of runs may be named after switches: ``runs/.../fwm_hw_ld.ld_hw_gradient=false/seed-0/config.yaml``.
    """
    overrides = [x for x in arguments if "=" in x and not _is_file_in_folder(x)]
    return [x for x in arguments if x not in overrides], overrides


def _is_file_in_folder(argument: str) -> bool:
    """Whether an argument with ``=`` is a YAML file below a folder of such a name; no key has a slash."""
    return "/" in argument.partition("=")[0] and argument.endswith((".yaml", ".yml"))
