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
from hpc_jepa.io.random_streams import RandomStream, uniforms


class Corruption(Protocol):
    """A corruption applied to clips before normalisation. It depends on the sample alone, not on batch or rank."""

    def frame_indices(self, indices: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
        """Frames [F] to read instead of ``indices``, of a video of ``frames`` frames."""

    def __call__(self, pixels: Tensor, sample: int) -> Tensor:
        """Corrupt a clip [C, F, H, W] of float pixels in 0..255."""


class EvaluationClips:
    """Iterates over (pixels [B, C, F, Hp, Wp] float32, labels [B] int64, indices [B] int64) on the CPU.

    Frames are selected by ``clip.sampling``, the short side resized to ``clip.size`` (bilinear, no antialiasing), the
    centre (or one of ``clip.crops`` along the long side) cropped, and pixels normalised. Images are resized as in
    torchvision (bicubic, antialiased) and repeated. Process ``rank`` reads samples rank, rank + world_size, ... of
    ``subset`` (ascending; None: all samples). Unlabelled samples have label -1. ``view``: which of ``clip.views`` views
    of a video, crops of the first clip first. A sample that does not decode raises DataError with its key.
    ``clusters``: names of the source videos of this process's samples, if known. ``numbers`` [classes]: label that
    each label of the shards stands for; None: itself.
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
        view: int = 0,
        corruption: Corruption | None = None,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        self._clip = clip
        self._clip_index, self._crop = divmod(view, clip.crops)
        self._corruption = corruption
        self._numbers = numbers
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
        with sample_named(self._shards, index):
            info = self._shards.info(index)
        if info.label is None or self._numbers is None:
            return -1 if info.label is None else info.label, info.cluster
        if info.label >= len(self._numbers):
            raise DataError(
                f"{self._shards.path}: {self._shards.key(index)} has label {info.label}, the manifest names "
                f"{len(self._numbers)} classes; build the shards again"
            )
        return int(self._numbers[info.label]), info.cluster

    def _pixels(self, index: int) -> Tensor:
        """[C, F, Hp, Wp] of one sample."""
        with sample_named(self._shards, index):
            pixels = self._decode(index, *self._shards.read(index))
        if self._corruption is not None:
            pixels = self._corruption(pixels.expand(-1, self._clip.frames, -1, -1), index)
        return normalise(pixels, self._clip).expand(-1, self._clip.frames, -1, -1)

    def _decode(self, index: int, data: bytes, info: SampleInfo) -> Tensor:
        """[C, F, Hp, Wp] of a video, [C, 1, Hp, Wp] of an image; bytes as floats."""
        if not is_image(data):
            start = segment_starts(index, self._clip)[self._clip_index]
            indices = evaluation_frames(info.frames, self._clip, self._clip_index, start)
            if self._corruption is not None:
                indices = self._corruption.frame_indices(indices, info.frames)
            return crop_frames(decode_frames(data, indices), self._clip, self._crop)
        with open_image(data) as image:
            return crop_image(image.convert("RGB"), self._clip, self._crop)


@contextmanager
def sample_named(shards: ShardFolder, index: int) -> Iterator[None]:
    """Turn UndecodableError into a DataError with tar and key."""
    try:
        yield
    except UndecodableError as error:
        message = f"{shards.tar(index)}: {shards.key(index)} {error}; copy or build {shards.path} again"
        raise DataError(message) from error


def segment_starts(sample: int, clip: EvaluationClipConfig) -> NDArray[np.float64]:
    """[clips] uniforms that place the windows of a test sample; see ``frame_sampling.segment_frames``."""
    if clip.sampling != "segments":
        return np.zeros(clip.clips)
    return uniforms(0, RandomStream.SEGMENT, sample, (clip.clips,))


def normalise(pixels: Tensor, clip: EvaluationClipConfig) -> Tensor:
    """[C, ...] of bytes as floats -> (x / 255 - mean) / std."""
    mean, std = (255 * torch.tensor(value).view(3, 1, 1, 1) for value in (clip.mean, clip.std))
    return (pixels - mean) / std


def crop_frames(frames: NDArray[np.uint8], clip: EvaluationClipConfig, crop: int = 0) -> Tensor:
    """[F, H, W, C] uint8 -> [C, F, size, size] float32; whole frames if the clip has no size."""
    pixels, size = torch.from_numpy(frames).permute(0, 3, 1, 2).float(), clip.size
    if size is not None:
        height, width = pixels.shape[2:]
        short, resized = min(height, width), clip.resize or size
        pixels = interpolate(pixels, (resized * height // short, resized * width // short), mode="bilinear")
        top, left = _corner((pixels.shape[2], pixels.shape[3]), clip, crop) or (
            (side - size) // 2 for side in pixels.shape[2:]
        )
        pixels = pixels[:, :, top : top + size, left : left + size]
    return pixels.transpose(0, 1).contiguous()


def crop_image(image: Image.Image, clip: EvaluationClipConfig, crop: int = 0) -> Tensor:
    """RGB image -> [C, 1, size, size] like torchvision's Resize and CenterCrop; the whole image if there is no size."""
    size = clip.size
    if size is not None:
        width, height = image.size
        short, resized = min(width, height), clip.resize or size
        image = image.resize((resized * width // short, resized * height // short), Image.Resampling.BICUBIC)
        centre = (round((side - size) / 2) for side in (image.height, image.width))
        top, left = _corner((image.height, image.width), clip, crop) or centre
        image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(1).float()


def _corner(sides: tuple[int, int], clip: EvaluationClipConfig, crop: int) -> tuple[int, int] | None:
    """Top and left of a crop in a frame of height and width ``sides``; None if it is the only one.

    Several are evenly spaced along the long side, from its start.
    """
    if clip.crops == 1 or clip.size is None:
        return None
    across = (min(sides) - clip.size) // 2
    along = crop * ((max(sides) - clip.size) // (clip.crops - 1))
    return (along, across) if sides[0] > sides[1] else (across, along)
