"""Prefetch batches: clips and their masks for the next steps, while the current step trains."""

import time
from collections.abc import Callable, Iterator
from itertools import chain
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.prefetch import Prefetcher
from hpc_jepa.types import ClipBatch, Padding, TokenMasks

MicroBatchMasker = Callable[[int, ClipBatch], tuple[tuple[TokenMasks, ...], ...]]
"""A step and its clips -> for each micro-batch its masks, one per mask group."""


class TrainBatch(NamedTuple):
    """This rank's clips of one step, and for each micro-batch the masks of its clips, one entry per mask group."""

    clips: ClipBatch
    masks: tuple[tuple[TokenMasks, ...], ...]

    def micro_batches(self) -> Iterator[tuple[Tensor, tuple[TokenMasks, ...]]]:
        """Pixels [b, C, F, Hp, Wp] and masks of each micro-batch."""
        return zip(self.clips.pixels.chunk(len(self.masks)), self.masks, strict=True)

    def cuda_tensors(self) -> Iterator[Tensor]:
        """All tensors on a GPU."""
        for part in (self.clips, *chain.from_iterable(self.masks)):
            parts = chain.from_iterable(v if isinstance(v, Padding) else (v,) for v in vars(part).values())
            yield from (tensor for tensor in parts if tensor is not None and tensor.is_cuda)


class DataCounts(NamedTuple):
    """Fields of ``state.json`` on the clips of this rank: see :class:`hpc_jepa.runs.state.RunState`."""

    passes: dict[str, float]
    shared_clips: int | None
    decode_errors: dict[str, int]
    cpu_decoded: dict[str, int]


class BatchPrefetcher:
    """Reads, decodes and augments some steps ahead in a background thread, and masks one step ahead in another.

    On a GPU the threads use a CUDA stream of their own, so their copies and kernels overlap with the step, and their
    host syncs do not block the training thread. Masks may need an exchange between processes, so they are never made
    further ahead: all processes begin the same exchanges. ``steps``: number of steps of the run; ``ahead``: batches of
    clips made ahead of the step that trains, at least 1; each takes its memory on the device. ``clip_offset``: clips
    and masks of a step are those of the step that is this much later, for a run that goes on where another stopped.
    """

    def __init__(
        self,
        loader: ClipLoader,
        masker: MicroBatchMasker,
        steps: int,
        device: torch.device,
        ahead: int = 1,
        clip_offset: int = 0,
    ) -> None:
        self._clip_offset = clip_offset
        self._loader = loader
        self._masker = masker
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._clips = Prefetcher(self._make_clips, ahead=ahead - 1, end=steps, name="clip-prefetch")
        self._prefetcher = Prefetcher(self._make, ahead=1, end=steps, name="batch-prefetch")
        self.wait_seconds = 0.0

    def __enter__(self) -> "BatchPrefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._prefetcher.close()
        self._clips.close()
        self._loader.close()

    def prepare(self, step: int) -> None:
        """Make the batch of ``step`` now, so that errors in data or masks are raised before training starts."""
        self._prefetcher.prepare(step)

    def get(self, step: int) -> TrainBatch:
        """The batch of ``step``; adds the time spent waiting for it to ``wait_seconds``."""
        started = time.perf_counter()
        batch = self._prefetcher.get(step)
        self.wait_seconds += time.perf_counter() - started
        if self._stream is not None:
            for tensor in batch.cuda_tensors():  # keep their memory until the training stream has used it
                tensor.record_stream(torch.cuda.current_stream())
        return batch

    def counts(self, steps: int) -> DataCounts:
        """Clips of this rank so far. passes: of the first ``steps`` steps, and of those of the run it branched from."""
        loader = self._loader
        passes = loader.passes(steps + self._clip_offset)
        return DataCounts(passes, loader.shared_clips, loader.decode_errors, loader.cpu_decoded)

    def _make(self, step: int) -> TrainBatch:
        clips = self._clips.get(step)
        with torch.cuda.stream(self._stream):
            batch = TrainBatch(clips, self._masker(step + self._clip_offset, clips))
        self._wait_for_device()
        return batch

    def _make_clips(self, step: int) -> ClipBatch:
        with torch.cuda.stream(self._stream):
            clips = self._loader.batch(step + self._clip_offset)
        self._wait_for_device()
        return clips

    def _wait_for_device(self) -> None:
        """Block this thread until what it started is done, so that other streams can use it."""
        if self._stream is not None:
            self._stream.synchronize()
