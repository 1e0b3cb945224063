"""The next batch is made while the current one is trained on."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.masking.modality import Masker
from hpc_jepa.types import ClipBatch, TokenMasks


class TrainBatch(NamedTuple):
    """Clips of one step and their masks, one entry per mask group."""

    clips: ClipBatch
    masks: tuple[TokenMasks, ...]

    def cuda_tensors(self) -> Iterator[Tensor]:
        """All tensors that lie on a GPU."""
        for part in (self.clips, *self.masks):
            yield from (tensor for tensor in vars(part).values() if tensor.is_cuda)


class BatchPrefetcher:
    """Reads, decodes, augments and masks one step ahead in a background thread.

    Batches are functions of the step alone, so running ahead changes nothing but the waiting time. On a GPU the thread
    has a stream of its own: it copies, decodes and masks beside the step, and what it asks the device, the step does
    not wait for.
    """

    def __init__(self, loader: ClipLoader, masker: Masker, last: int, device: torch.device) -> None:
        self._loader = loader
        self._masker = masker
        self._last = last
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._coming: dict[int, Future[TrainBatch]] = {}
        self.wait_seconds = 0.0

    def __enter__(self) -> "BatchPrefetcher":
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

    def take(self, step: int) -> TrainBatch:
        """The batch of ``step``; adds the seconds spent waiting for it to ``waited``."""
        for ahead in (step, step + 1):
            if ahead < self._last and ahead not in self._coming:
                self._coming[ahead] = self._worker.submit(self._make, ahead)
        started = time.perf_counter()
        batch = self._coming.pop(step).result()
        self.wait_seconds += time.perf_counter() - started
        if self._stream is not None:
            for (
                tensor
            ) in batch.cuda_tensors():  # their memory is not to be used again before the step is through with it
                tensor.record_stream(torch.cuda.current_stream())
        return batch

    @property
    def dropped(self) -> dict[str, int]:
        """Clips per source that did not decode and were replaced, on this process."""
        return self._loader.dropped

    def _make(self, step: int) -> TrainBatch:
        with torch.cuda.stream(self._stream):
            clips = self._loader.batch(step)
            batch = TrainBatch(clips, self._masker(step, clips))
        if self._stream is not None:
            self._stream.synchronize()  # whoever takes it finds it ready; this thread has nothing else to do
        return batch
