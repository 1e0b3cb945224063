"""What the terminal shows: progress bars and one-line messages, on standard error so that results can be piped."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

CONSOLE = Console(stderr=True, soft_wrap=True)

PIPED_WIDTH = 250
"""Columns of a table in a pipe or a file, where no terminal says how many there are."""


def stdout_console() -> Console:
    """Standard output. Names are folded only by a terminal that is too narrow for them: ``grep`` finds them whole."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def plural(number: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many}"


class ConsoleHandler(logging.Handler):
    """Log lines above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        CONSOLE.print(self.format(record), markup=False, highlight=False)


Advance = Callable[..., None]


class TimeColumn(ProgressColumn):
    """Time left and, where ``taken``, the time taken at the end, in words that tell the two apart."""

    def __init__(self, taken: bool) -> None:
        super().__init__(Column(no_wrap=True))
        self._taken = taken

    def render(self, task: Task) -> Text:
        """Nothing before there is something to estimate from."""
        if task.finished_time is not None:
            return Text(f"in {_clock(task.finished_time)}" if self._taken else "")
        return Text("" if task.time_remaining is None else f"{_clock(task.time_remaining)} left")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _columns(taken: bool) -> tuple[ProgressColumn, ...]:
    """Only the bar gives way on a narrow terminal."""
    return (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}", justify="right"),
        TimeColumn(taken),
        TextColumn("{task.fields[note]}"),
    )


@contextmanager
def _bars(taken: bool) -> Iterator[Progress]:
    """Bars that stay when the work is done, and make room for the message when it fails."""
    with Progress(*_columns(taken), console=CONSOLE) as bars:
        try:
            yield bars
        except BaseException:
            bars.live.transient = True
            raise


@contextmanager
def progress_bars(labels: Sequence[str], totals: Sequence[int]) -> Iterator[Callable[[int, int, str], None]]:
    """A bar for each of several runs, some of which may wait for others. Yields ``show(number, step, note)``."""
    with _bars(taken=False) as bars:
        tasks = [bars.add_task(label, total=total, note="") for label, total in zip(labels, totals, strict=True)]

        def show(number: int, step: int, note: str) -> None:
            bars.update(tasks[number], completed=step, note=note)

        yield show


@contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A bar with count and time left, at the end time taken. Yields ``advance(amount=1, note="")``.

    ``done``: what an earlier attempt has done of ``total``.
    """
    with _bars(taken=True) as bars:
        task = bars.add_task(title, total=total, completed=done, note="")

        def advance(amount: int = 1, note: str = "") -> None:
            if note:
                bars.update(task, advance=amount, note=note)
            else:
                bars.update(task, advance=amount)

        yield advance
