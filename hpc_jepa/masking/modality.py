"""Masks of video batches and of image batches, which have different token grids."""

from dataclasses import dataclass

from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.types import ClipBatch, TokenMasks


@dataclass(frozen=True)
class MasksByModality:
    """One mask sampler per modality. All processes have the same modality in a step."""

    videos: MaskSampler
    images: MaskSampler

    def __call__(self, step: int, clips: ClipBatch) -> tuple[TokenMasks, ...]:
        """Masks of this process's clips, one per mask group. Without accumulation."""
        return self._sampler(clips)(step, clips)

    def micro_batches(self, step: int, clips: ClipBatch) -> tuple[tuple[TokenMasks, ...], ...]:
        """For each micro-batch of this process's clips its masks, one per mask group."""
        return self._sampler(clips).micro_batches(step, clips)

    def _sampler(self, clips: ClipBatch) -> MaskSampler:
        return self.images if clips.pixels.shape[2] == 1 else self.videos
