"""The next batch is made while the current one is trained on."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.latents import ClipBatch, TokenMasks
from hpc_jepa.masking.modality import Masker


class Batch(NamedTuple):
    """Clips of one step and their masks, one entry per mask group."""

    clips: ClipBatch
    masks: tuple[TokenMasks, ...]


class Feed:
    """Reads, decodes, augments and masks one step ahead in a background thread.

    Batches are functions of the step alone, so running ahead changes nothing but the waiting time.
    """

    def __init__(self, loader: ClipLoader, masker: Masker, last: int) -> None:
        self._loader = loader
        self._masker = masker
        self._last = last
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._coming: dict[int, Future[Batch]] = {}
        self.waited = 0.0

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._loader.close()

    def prepare(self, step: int) -> None:
        """Make the batch of ``step`` now and keep it, to learn at once what stands in the way of a batch."""
        if step < self._last:
            self._coming[step] = self._worker.submit(self._make, step)
            self._coming[step].result()

    def take(self, step: int) -> Batch:
        """The batch of ``step``; adds the seconds spent waiting for it to ``waited``."""
        for ahead in (step, step + 1):
            if ahead < self._last and ahead not in self._coming:
                self._coming[ahead] = self._worker.submit(self._make, ahead)
        started = time.perf_counter()
        batch = self._coming.pop(step).result()
        self.waited += time.perf_counter() - started
        return batch

    @property
    def dropped(self) -> dict[str, int]:
        """Clips per source that did not decode and were replaced, on this process."""
        return self._loader.dropped

    def _make(self, step: int) -> Batch:
        clips = self._loader.batch(step)
        return Batch(clips, self._masker(step, clips))
