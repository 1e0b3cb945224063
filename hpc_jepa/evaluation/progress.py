"""Progress callbacks, so that evaluation code does not depend on how progress is displayed."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[], None]
"""Called after each unit of work."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""``with progress(title, total) as advance:`` around ``total`` units of work."""


@contextmanager
def no_progress(title: str, total: int) -> Iterator[Advance]:
    """Display nothing."""
    yield lambda: None


Notify = Callable[[str], object]
"""Shows a line to whoever waits."""


def no_notice(line: str) -> None:
    """Show nothing."""
