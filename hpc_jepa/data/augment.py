"""The clips of a batch, cut, turned, resized and normalised: videos and images side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.crop import View
from hpc_jepa.data.dali_pipeline import ClipPipeline, Decoder, Media
from hpc_jepa.io.malloc import mmap_large_blocks


class Clip(NamedTuple):
    """What becomes one row of the batch.

    video: the window of its frames [F, h, w, 3], or compressed bytes [n]; uint8.
    frames: the indices [F] of its frames; a single one for an image.
    """

    video: NDArray[np.uint8]
    view: View
    frames: NDArray[np.int64]
    media: Media


class Augmenter:
    """Makes pixels of clips: on a CPU from decoded frames; on a GPU from compressed bytes, which DALI decodes there.
    ``decoder`` "cpu" lets DALI decode without a GPU too, the few codecs it can.

    Clips of several frames and single images go through the graph apart, so that an image is cut and resized once,
    however often it is repeated.
    """

    def __init__(
        self,
        clip: ClipConfig,
        augmentation: AugmentationConfig,
        batch_size: int,
        threads: int,
        device: torch.device,
        decoder: Decoder | None = None,
    ) -> None:
        mmap_large_blocks()
        self._clip = clip
        self._augmentation = augmentation
        self._batch_size = batch_size
        self._threads = threads
        self._device = device
        self._decoder: Decoder | None = "mixed" if device.type == "cuda" else decoder
        self._graphs: dict[Media, ClipPipeline] = {}

    @property
    def decodes(self) -> bool:
        """Whether it takes compressed bytes."""
        return self._decoder is not None

    def __call__(self, clips: Sequence[Clip], frames: int) -> Tensor:
        """Pixels [B, C, ``frames``, size, size] of clips that have as many frames, or one that is repeated.

        Raises RuntimeError if DALI cannot decode; then everything is set up anew for the next batch.
        """
        pixels = torch.empty(len(clips), 3, frames, self._clip.size, self._clip.size, device=self._device)
        alike: dict[tuple[Media, int], list[int]] = {}
        for row, clip in enumerate(clips):
            alike.setdefault((clip.media, len(clip.frames)), []).append(row)
        for (media, _), rows in alike.items():
            for row, made in zip(rows, self._run(media, [clips[row] for row in rows]), strict=True):
                pixels[row].copy_(made)
            if self._device.type == "cuda":  # copies are only queued, and the next run has a stream of its own
                torch.cuda.current_stream(self._device).synchronize()
        return pixels

    def _run(self, media: Media, clips: Sequence[Clip]) -> Tensor:
        """[B, C, F, size, size] of clips of one kind, to be copied before the next run."""
        videos, views, frames, _ = zip(*clips, strict=True)
        try:
            return self._graph(media).run(videos, views, frames)
        except RuntimeError:
            self._graphs.clear()
            raise

    def _graph(self, media: Media) -> ClipPipeline:
        """Decoded frames of either kind go through one graph, compressed files through one for each."""
        kind = media if self.decodes else "video"
        if kind not in self._graphs:
            self._graphs[kind] = ClipPipeline(
                self._clip,
                self._augmentation,
                self._batch_size,
                self._threads,
                (self._device.index or 0) if self._device.type == "cuda" else None,
                self._decoder,
                kind,
            )
        return self._graphs[kind]
