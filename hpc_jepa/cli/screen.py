"""What the terminal shows: progress bars and one-line messages, on standard error so that results can be piped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

CONSOLE = Console(stderr=True, soft_wrap=True)

Advance = Callable[..., None]


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """A bar with count, elapsed time and ETA. Yields ``advance(amount=1, note="")``."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=CONSOLE) as bars:
        task = bars.add_task(title, total=total, note="")

        def advance(amount: int = 1, note: str = "") -> None:
            if note:
                bars.update(task, advance=amount, note=note)
            else:
                bars.update(task, advance=amount)

        yield advance
