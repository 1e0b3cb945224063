"""The evaluation dataloader: every sample once, in order, without augmentation, optionally corrupted."""

from collections.abc import Iterator
from contextlib import contextmanager
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
from hpc_jepa.devices import thread_pool
from hpc_jepa.errors import DataError, UndecodableError


class Corruption(Protocol):
    """A corruption applied to clips before normalisation. It depends on the sample alone, not on batch or rank."""

    def frame_indices(self, indices: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
        """Frames [F] to read instead of ``indices``, of a video of ``frames`` frames."""

    def __call__(self, pixels: Tensor, sample: int) -> Tensor:
        """Corrupt a clip [C, F, H, W] of float pixels in 0..255."""


class EvaluationClips:
    """Iterates over (pixels [B, C, F, Hp, Wp] float32, labels [B] int64, indices [B] int64) on the CPU.

    Frames are selected by ``clip.sampling``, the short side resized to ``clip.size`` (bilinear, no antialiasing), the
    centre cropped, and pixels normalised. Images are resized as in torchvision (bicubic, antialiased) and
    repeated. Process ``rank`` reads samples rank, rank + world_size, ... of ``subset`` (ascending; None: all samples).
    Unlabelled samples have label -1. ``clip_index``: which of several clips per video. A sample that does not decode
    raises DataError with its key. ``clusters``: names of the source videos of this process's samples, if known.
    """

    def __init__(
        self,
        shards: Path,
        clip: EvaluationClipConfig,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 1,
        subset: NDArray[np.int64] | None = None,
        clip_index: int = 0,
        corruption: Corruption | None = None,
    ) -> None:
        self._clip = clip
        self._clip_index = clip_index
        self._corruption = corruption
        self._shards = ShardFolder(shards)
        self._batch_size = batch_size
        self._threads = threads
        samples = np.arange(len(self._shards)) if subset is None else subset
        self.indices = torch.from_numpy(samples[rank::world_size])
        self._check_video_length()
        known = [self._label_and_cluster(index) for index in self.indices.tolist()]
        self.labels = torch.tensor([label for label, _ in known])
        self.clusters = [cluster for _, cluster in known]

    def __len__(self) -> int:
        """Number of samples this process reads."""
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        with thread_pool(self._threads, "decode") as pool:
            for start in range(0, len(self), self._batch_size):
                rows = slice(start, start + self._batch_size)
                pixels = torch.stack(list(pool.map(self._pixels, self.indices[rows].tolist())))
                yield pixels, self.labels[rows], self.indices[rows]

    def _check_video_length(self) -> None:
        clip, longest = self._clip, self._shards.manifest.longest
        required = clip.frames if clip.sampling == "uniform" else (clip.frames - 1) * clip.stride + 1
        if 1 < longest < required:
            raise DataError(
                f"{self._shards.path}: its longest video has {longest} frames, a clip needs {required}; "
                f"lower frames or stride of the protocol's clip"
            )

    def _label_and_cluster(self, index: int) -> tuple[int, str | None]:
        with self._sample_named(index):
            info = self._shards.info(index)
        return -1 if info.label is None else info.label, info.cluster

    def _pixels(self, index: int) -> Tensor:
        """[C, F, Hp, Wp] of one sample."""
        with self._sample_named(index):
            pixels = self._decode_centre(*self._shards.read(index))
        if self._corruption is not None:
            pixels = self._corruption(pixels.expand(-1, self._clip.frames, -1, -1), index)
        mean, std = (255 * torch.tensor(value).view(3, 1, 1, 1) for value in (self._clip.mean, self._clip.std))
        return ((pixels - mean) / std).expand(-1, self._clip.frames, -1, -1)

    def _decode_centre(self, data: bytes, info: SampleInfo) -> Tensor:
        """[C, F, Hp, Wp] of a video, [C, 1, Hp, Wp] of an image; bytes as floats."""
        if not is_image(data):
            indices = evaluation_frames(info.frames, self._clip, self._clip_index)
            if self._corruption is not None:
                indices = self._corruption.frame_indices(indices, info.frames)
            return _centre_crop(decode_frames(data, indices), self._clip.size)
        with open_image(data) as image:
            return _centre_crop_image(image.convert("RGB"), self._clip.size)

    @contextmanager
    def _sample_named(self, index: int) -> Iterator[None]:
        """Turn UndecodableError into a DataError with tar and key."""
        try:
            yield
        except UndecodableError as error:
            shards = self._shards
            message = f"{shards.tar(index)}: {shards.key(index)} {error}; copy or build {shards.path} again"
            raise DataError(message) from error


def _centre_crop(frames: NDArray[np.uint8], size: int | None) -> Tensor:
    """[F, H, W, C] uint8 -> [C, F, size, size] float32; whole frames if size is None."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    if size is not None:
        height, width = pixels.shape[2:]
        short = min(height, width)
        pixels = interpolate(pixels, (size * height // short, size * width // short), mode="bilinear")
        top, left = ((side - size) // 2 for side in pixels.shape[2:])
        pixels = pixels[:, :, top : top + size, left : left + size]
    return pixels.transpose(0, 1).contiguous()


def _centre_crop_image(image: Image.Image, size: int | None) -> Tensor:
    """RGB image -> [C, 1, size, size] like torchvision's Resize and CenterCrop; the whole image if size is None."""
    if size is not None:
        width, height = image.size
        short = min(width, height)
        image = image.resize((size * width // short, size * height // short), Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(1).float()
