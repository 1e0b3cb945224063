"""Augmentation of a batch: crop, flip, resize and normalise videos and images side by side."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.clip import Clip, EncodedClip
from hpc_jepa.data.dali_pipeline import ClipPipeline, Decoder, Media
from hpc_jepa.io.malloc import mmap_large_blocks


class _Kind(NamedTuple):
    """Clips that go through one DALI pipeline."""

    encoded: bool
    media: Media = "video"
    matrix: str | None = None


class Augmenter:
    """Turns clips into pixels: decoded clips, and with a GPU encoded clips, which DALI decodes.

    ``decoder`` "cpu" makes DALI decode without a GPU too; it supports few codecs there. Videos and single images run
    through separate DALI pipelines, so an image is cropped and resized once, however often it is repeated.
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
        self._size = clip.size
        self._device = device
        gpu = (device.index or 0) if device.type == "cuda" else None
        self._decoder: Decoder | None = decoder if gpu is None else "mixed"
        self._make_pipeline = partial(ClipPipeline, clip, augmentation, batch_size, threads, gpu)
        self._pipelines: dict[_Kind, ClipPipeline] = {}

    @property
    def takes_encoded(self) -> bool:
        """Whether it expects encoded clips."""
        return self._decoder is not None

    def __call__(self, clips: Sequence[Clip], frames: int) -> Tensor:
        """Pixels [B, C, ``frames``, size, size] of clips with ``frames`` frames, or with one frame that is repeated.

        Raises RuntimeError if DALI cannot decode; the pipelines are then rebuilt for the next batch.
        """
        pixels = torch.empty(len(clips), 3, frames, self._size, self._size, device=self._device)
        groups: dict[tuple[_Kind, int], list[int]] = {}
        for row, clip in enumerate(clips):
            groups.setdefault((_kind(clip), len(clip.plan.frames)), []).append(row)
        for (kind, _), rows in groups.items():
            for row, clip_pixels in zip(rows, self._run(kind, [clips[row] for row in rows]), strict=True):
                pixels[row].copy_(clip_pixels)
            if self._device.type == "cuda":  # copies are asynchronous and the next DALI run uses its own stream
                torch.cuda.current_stream(self._device).synchronize()
        return pixels

    def _run(self, kind: _Kind, clips: Sequence[Clip]) -> Tensor:
        """[B, C, F, size, size] of clips of one kind; the next run overwrites this memory."""
        views, frames = [clip.plan.view for clip in clips], [clip.plan.frames for clip in clips]
        try:
            return self._pipeline(kind).run([clip.video for clip in clips], views, frames)
        except RuntimeError:
            self._pipelines.clear()
            raise

    def _pipeline(self, kind: _Kind) -> ClipPipeline:
        """Decoded images and videos share one pipeline; encoded ones need one each, and one for each colour matrix."""
        if kind not in self._pipelines:
            decoder = self._decoder if kind.encoded else None
            self._pipelines[kind] = self._make_pipeline(decoder, kind.media, kind.matrix)
        return self._pipelines[kind]


def _kind(clip: Clip) -> _Kind:
    if isinstance(clip, EncodedClip):
        return _Kind(True, clip.plan.media, clip.matrix)
    return _Kind(False)
