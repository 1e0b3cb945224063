"""What the terminal shows: progress bars and one-line messages, on standard error so that results can be piped."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

CONSOLE = Console(stderr=True, soft_wrap=True)

Advance = Callable[..., None]


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


@contextmanager
def cell_bars(labels: Sequence[str], totals: Sequence[int]) -> Iterator[Callable[[int, int, str], None]]:
    """A bar for each of several runs. Yields ``show(number, step, note)``."""
    with Progress(*_columns(), console=CONSOLE) as bars:
        tasks = [bars.add_task(label, total=total, note="") for label, total in zip(labels, totals, strict=True)]

        def show(number: int, step: int, note: str) -> None:
            bars.update(tasks[number], completed=step, note=note)

        yield show


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """A bar with count, elapsed time and ETA. Yields ``advance(amount=1, note="")``."""
    with Progress(*_columns(), console=CONSOLE) as bars:
        task = bars.add_task(title, total=total, note="")

        def advance(amount: int = 1, note: str = "") -> None:
            if note:
                bars.update(task, advance=amount, note=note)
            else:
                bars.update(task, advance=amount)

        yield advance
