"""Decoding with torchcodec, an optional package, in place of DALI's pipeline: to compare their speed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.crop import View
from hpc_jepa.devices import thread_pool


def has_torchcodec() -> bool:
    """Whether torchcodec can be imported; it also needs FFmpeg's libraries."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


class TorchcodecPipeline:
    """Compressed videos and views of one batch -> normalised pixels, as ClipPipeline.

    ``device``: index of the GPU that decodes, None for the CPU. ``kind``: the other arguments of ClipPipeline, unused.
    """

    def __init__(
        self,
        clip: ClipConfig,
        augmentation: AugmentationConfig,
        batch_size: int,
        threads: int = 1,
        device: int | None = None,
        *kind: Any,
    ) -> None:
        self._size = clip.size
        self._device = torch.device("cpu") if device is None else torch.device("cuda", device)
        self._mean = 255 * torch.tensor(augmentation.mean, device=self._device).view(3, 1, 1)
        self._std = 255 * torch.tensor(augmentation.std, device=self._device).view(3, 1, 1)
        self._threads = thread_pool(min(threads, batch_size), "torchcodec")

    def run(
        self, videos: Sequence[NDArray[np.uint8]], views: Sequence[View], frames: Sequence[NDArray[np.int64]]
    ) -> Tensor:
        """Pixels [B, C, F, size, size]. Raises RuntimeError if torchcodec cannot decode."""
        return torch.stack(list(self._threads.map(self._clip, videos, views, frames)))

    def _clip(self, video: NDArray[np.uint8], view: View, frames: NDArray[np.int64]) -> Tensor:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(video.tobytes(), device=str(self._device))
        decoded: Tensor = decoder.get_frames_at(indices=frames.tolist()).data
        pixels = decoded[(..., *view.window)].float()
        sides = [dim for dim, flip in ((3, view.horizontal_flip), (2, view.vertical_flip)) if flip]
        pixels = interpolate(pixels.flip(sides), (self._size, self._size), mode="bilinear")
        return ((pixels - self._mean) / self._std).transpose(0, 1)
