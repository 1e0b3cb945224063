"""Evaluation clips: every sample once, in order, without augmentation; damaged on purpose where that is asked for."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from hpc_jepa.config.benchmark import EvaluationClipConfig
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.frame_sampling import evaluation_frames
from hpc_jepa.data.images import is_image, open_image
from hpc_jepa.data.shards.manifest import SampleInfo
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.errors import DataError, UndecodableError


class Corruption(Protocol):
    """Damage done to a clip before it is normalised: a function of the sample, whoever asks."""

    def frame_indices(self, indices: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
        """Frames [F] of a video of ``frames`` frames that are read instead of ``indices``."""

    def __call__(self, pixels: Tensor, sample: int) -> Tensor:
        """Clip [C, F, H, W] of byte values as floats -> the damaged clip."""


class EvaluationClips:
    """Iterates over (pixels [B, C, F, Hp, Wp] float32, labels [B] int64, indices [B] int64) on the CPU.

    Frames are chosen by ``clip.sampling``, the short side resized to ``clip.size`` (bilinear, no antialiasing) and the
    centre cropped, pixels normalised. Images are resized as torchvision does it (bicubic, antialiased) and repeated.
    Process ``rank`` reads samples rank, rank + world_size, ... of ``chosen`` (rising; None: of all). Unlabelled samples
    have label -1. ``number`` says which of several clips of a sample is cut. Every sample counts: one that does not
    decode raises DataError naming it.
    """

    def __init__(
        self,
        shards: Path,
        clip: EvaluationClipConfig,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 1,
        chosen: NDArray[np.int64] | None = None,
        number: int = 0,
        corruption: Corruption | None = None,
    ) -> None:
        self._clip = clip
        self._number = number
        self._corruption = corruption
        self._shards = ShardFolder(shards)
        self._batch_size = batch_size
        self._threads = threads
        samples = np.arange(len(self._shards)) if chosen is None else chosen
        self.indices = torch.from_numpy(samples[rank::world_size])
        self._refuse_short_videos()
        self.labels = torch.tensor([self._label(index) for index in self.indices.tolist()])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return self._shards.manifest.classes

    @property
    def data_hash(self) -> str:
        """Hash of the manifest."""
        return self._shards.hash

    def __len__(self) -> int:
        """Samples this process reads."""
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        with ThreadPoolExecutor(self._threads) as pool:
            for start in range(0, len(self), self._batch_size):
                rows = slice(start, start + self._batch_size)
                pixels = torch.stack(list(pool.map(self._pixels, self.indices[rows].tolist())))
                yield pixels, self.labels[rows], self.indices[rows]

    def _refuse_short_videos(self) -> None:
        clip, longest = self._clip, self._shards.manifest.longest
        needed = clip.frames if clip.sampling == "uniform" else (clip.frames - 1) * clip.stride + 1
        if 1 < longest < needed:
            raise DataError(
                f"{self._shards.folder}: its longest video has {longest} frames, a clip needs {needed}; "
                f"lower frames or stride of the protocol's clip"
            )

    def _label(self, index: int) -> int:
        try:
            label = self._shards.info(index).label
        except UndecodableError as error:
            raise self._named(index, error) from error
        return -1 if label is None else label

    def _pixels(self, index: int) -> Tensor:
        """[C, F, Hp, Wp] of one sample."""
        try:
            pixels = self._centred_frames(*self._shards.read(index))
        except UndecodableError as error:
            raise self._named(index, error) from error
        if self._corruption is not None:
            pixels = self._corruption(pixels.expand(-1, self._clip.frames, -1, -1), index)
        mean, std = (255 * torch.tensor(value).view(3, 1, 1, 1) for value in (self._clip.mean, self._clip.std))
        return ((pixels - mean) / std).expand(-1, self._clip.frames, -1, -1)

    def _centred_frames(self, data: bytes, info: SampleInfo) -> Tensor:
        """[C, F, Hp, Wp] of a video, [C, 1, Hp, Wp] of an image; bytes as floats."""
        if not is_image(data):
            indices = evaluation_frames(info.frames, self._clip, self._number)
            if self._corruption is not None:
                indices = self._corruption.frame_indices(indices, info.frames)
            return _centred(decode_frames(data, indices), self._clip.size)
        with open_image(data) as image:
            return _centred_image(image.convert("RGB"), self._clip.size)

    def _named(self, index: int, error: UndecodableError) -> DataError:
        shards = self._shards
        return DataError(f"{shards.tar(index)}: {shards.key(index)} {error}; copy or build {shards.folder} again")


def _centred(frames: NDArray[np.uint8], size: int | None) -> Tensor:
    """[F, H, W, C] bytes -> [C, F, size, size], or the whole frame where size is None."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    if size is not None:
        height, width = pixels.shape[2:]
        short = min(height, width)
        pixels = interpolate(pixels, (size * height // short, size * width // short), mode="bilinear")
        top, left = ((side - size) // 2 for side in pixels.shape[2:])
        pixels = pixels[:, :, top : top + size, left : left + size]
    return pixels.transpose(0, 1).contiguous()


def _centred_image(image: Image.Image, size: int | None) -> Tensor:
    """RGB image -> [C, 1, size, size] as torchvision's Resize and CenterCrop make it, or whole where size is None."""
    if size is not None:
        width, height = image.size
        short = min(width, height)
        image = image.resize((size * width // short, size * height // short), Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(1).float()
