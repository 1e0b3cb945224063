"""Samples of coming steps are read before they are due."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from hpc_jepa.data.shards.shard_folder import StoredVideo

Place = tuple[int, int]
"""A source of the mixture, and a sample of it."""


class ReadAhead:
    """Reads what ``places`` lists for the next steps, in threads of its own.

    Steps are functions of their number alone, so reading ahead changes nothing but the waiting time. What was read for
    steps that are passed over is forgotten.
    """

    def __init__(
        self,
        read: Callable[[Place], StoredVideo],
        places: Callable[[int], list[Place]],
        steps: int,
        threads: int,
    ) -> None:
        self._read = read
        self._places = places
        self._steps = steps
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._coming: dict[int, list[Future[StoredVideo]]] = {}

    def take(self, step: int) -> list[Future[StoredVideo]]:
        """The samples of a step, in the order of its places; a result raises what reading it raised."""
        due = range(step, step + self._steps + 1)
        self._coming = {ahead: self._coming.get(ahead) or self._begin(ahead) for ahead in due}
        return self._coming.pop(step)

    def close(self) -> None:
        """Stop reading."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _begin(self, step: int) -> list[Future[StoredVideo]]:
        return [self._threads.submit(self._read, place) for place in self._places(step)]
