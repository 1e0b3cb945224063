"""How long work reports that it goes on, without knowing who listens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[], None]
"""One more unit of work is done."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""``with progress(title, total) as advance:`` around a piece of work of ``total`` units."""


@contextmanager
def no_progress(title: str, total: int) -> Iterator[Advance]:
    """Nobody listens."""
    yield lambda: None
