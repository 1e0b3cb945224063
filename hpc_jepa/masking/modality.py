"""Masks of batches of videos and of batches of images, which differ in their token grid."""

from collections.abc import Callable
from dataclasses import dataclass

from hpc_jepa.types import ClipBatch, TokenMasks

Masker = Callable[[int, ClipBatch], tuple[TokenMasks, ...]]
"""A step and its clips -> their masks, one per group."""


@dataclass(frozen=True)
class MasksByModality:
    """Each kind of batch has a sampler of its own. All processes see the same kind in a step."""

    videos: Masker
    images: Masker

    def __call__(self, step: int, clips: ClipBatch) -> tuple[TokenMasks, ...]:
        """Masks of this process's clips."""
        masker = self.images if clips.pixels.shape[2] == 1 else self.videos
        return masker(step, clips)
