"""Prefetching: compute the next items of a sequence in background threads."""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from hpc_jepa.devices import thread_pool

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Computes ``make(item)`` for the requested item and the ``ahead`` items after it, in ``threads`` threads.

    ``make`` must depend on the item number alone, so that prefetching changes waiting time and nothing else. Items that
    are skipped over are discarded. ``end``: number of items; nothing past it is computed.
    """

    def __init__(
        self, make: Callable[[int], T], ahead: int, threads: int = 1, end: int = sys.maxsize, name: str = "prefetch"
    ) -> None:
        self._make = make
        self._ahead = ahead
        self._end = end
        self._threads = thread_pool(threads, name)
        self._pending: dict[int, Future[T]] = {}

    def get(self, item: int) -> T:
        """Wait for an item. Exceptions of ``make`` propagate."""
        return self.futures(item, 1)[0].result()

    def futures(self, first: int, count: int) -> list[Future[T]]:
        """Futures of ``count`` items from ``first`` on; also starts the ``ahead`` items after them."""
        window = range(first, min(first + count + self._ahead, self._end))
        self._pending = {item: self._pending.get(item) or self._submit(item) for item in window}
        return [self._pending.pop(item) for item in range(first, first + count)]

    def prepare(self, item: int) -> None:
        """Compute one item now and keep it for :meth:`get`, so that an error surfaces before the first ``get``."""
        if item < self._end:
            self._pending = {item: self._submit(item)}
            self._pending[item].result()

    def close(self) -> None:
        """Cancel queued items and wait for running ones."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _submit(self, item: int) -> Future[T]:
        return self._threads.submit(self._make, item)
