"""Masks of video batches and of image batches, which have different token grids."""

from collections.abc import Callable
from dataclasses import dataclass

from hpc_jepa.types import ClipBatch, TokenMasks

Masker = Callable[[int, ClipBatch], tuple[TokenMasks, ...]]
"""A step and its clips -> their masks, one per mask group."""


@dataclass(frozen=True)
class MasksByModality:
    """One mask sampler per modality. All processes have the same modality in a step."""

    videos: Masker
    images: Masker

    def __call__(self, step: int, clips: ClipBatch) -> tuple[TokenMasks, ...]:
        """Masks of this process's clips."""
        masker = self.images if clips.pixels.shape[2] == 1 else self.videos
        return masker(step, clips)
