"""Clips of single samples for a probe that is trained while the encoder runs: augmented ones, or all views."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from hpc_jepa.config.benchmark import EvaluationClipConfig
from hpc_jepa.config.pooler_probe import ProbeAugmentationConfig
from hpc_jepa.data.augmentation_policies import apply_policy
from hpc_jepa.data.crop import CROP_ATTEMPTS, View, random_view
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.evaluation_clips import crop_frames, crop_image, normalise, sample_named, segment_starts
from hpc_jepa.data.frame_sampling import evaluation_frames
from hpc_jepa.data.images import is_image, open_image, to_rgb
from hpc_jepa.data.shards.manifest import SampleInfo
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.io.random_streams import RandomStream, random_generator

ERASE_ATTEMPTS = 100
ERASED_AREA = (0.02, 1 / 3)
LOG_ERASED_ASPECT = (math.log(0.3), -math.log(0.3))
"""Height over width. Random erasing as in timm (Zhong et al. 2020)."""


class LabelledViews(NamedTuple):
    """Pixels [V, S, C, F, size, size] of V crops of S clips of one sample, and its class."""

    pixels: Tensor
    label: int


class ProbeClips:
    """Clips of the samples of one shard folder, on the CPU. What they contain depends on the arguments alone.

    A sample that does not decode raises DataError with its key.
    """

    def __init__(
        self, shards: Path, clip: EvaluationClipConfig, augmentation: ProbeAugmentationConfig, seed: int
    ) -> None:
        self._shards = ShardFolder(shards)
        self._clip = clip
        self._augmentation = augmentation
        self._seed = seed

    def augmented(self, sample: int, epoch: int) -> LabelledViews:
        """One random view of every clip; each clip has its own place, crop and colours."""
        with sample_named(self._shards, sample):
            data, info = self._shards.read(sample)
            randoms = [
                random_generator(self._seed, RandomStream.PROBE_CLIP, sample, clip, epoch)
                for clip in range(self._clip.clips)
            ]
            starts = np.array([random.random() for random in randoms])
            if is_image(data):
                with open_image(data) as image:
                    clips = [self._augmented_image(to_rgb(image), random) for random in randoms]
            else:
                clips = [
                    self._augmented_video(frames, random)
                    for frames, random in zip(self._decode(data, info, starts), randoms, strict=True)
                ]
        return LabelledViews(torch.stack(clips).unsqueeze(0), _label(info))

    def views(self, sample: int) -> LabelledViews:
        """All crops of all clips, without augmentation, as :class:`EvaluationClips` makes them."""
        clip = self._clip
        with sample_named(self._shards, sample):
            data, info = self._shards.read(sample)
            if is_image(data):
                with open_image(data) as opened:
                    image = opened.convert("RGB")
                    crops = [[crop_image(image, clip, crop)] * clip.clips for crop in range(clip.crops)]
            else:
                decoded = self._decode(data, info, segment_starts(sample, clip))
                crops = [[crop_frames(frames, clip, crop) for frames in decoded] for crop in range(clip.crops)]
        pixels = torch.stack([torch.stack([self._finish(clip) for clip in clips]) for clips in crops])
        return LabelledViews(pixels, _label(info))

    def _decode(self, data: bytes, info: SampleInfo, starts: NDArray[np.float64]) -> list[NDArray[np.uint8]]:
        """[F, H, W, 3] of every clip, from one pass over the video."""
        clip = self._clip
        indices = [evaluation_frames(info.frames, clip, number, start) for number, start in enumerate(starts)]
        return np.split(decode_frames(data, np.concatenate(indices)), clip.clips)

    def _finish(self, pixels: Tensor) -> Tensor:
        """[C, F or 1, size, size] of bytes as floats -> normalised, a single frame repeated."""
        return normalise(pixels, self._clip).expand(-1, self._clip.frames, -1, -1)

    def _augmented_video(self, frames: NDArray[np.uint8], random: np.random.Generator) -> Tensor:
        """[F, H, W, 3] -> [C, F, size, size]."""
        view = self._random_view(frames.shape[1], frames.shape[2], random)
        images = self._policy([Image.fromarray(frame) for frame in frames], random)
        rows, columns = view.window
        cropped = torch.from_numpy(np.stack([np.asarray(image)[rows, columns] for image in images]))
        pixels = interpolate(cropped.permute(0, 3, 1, 2).float(), self._size, mode="bilinear")
        return self._flip_and_erase(pixels.transpose(0, 1), view, random)

    def _augmented_image(self, image: Image.Image, random: np.random.Generator) -> Tensor:
        """-> [C, F, size, size], all frames equal."""
        view = self._random_view(image.height, image.width, random)
        box = (view.left, view.top, view.left + view.width, view.top + view.height)
        image = image.crop(box).resize(self._size, Image.Resampling.BICUBIC)
        if view.horizontal_flip:
            image, view = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), view._replace(horizontal_flip=False)
        (image,) = self._policy([image], random)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(1).float()
        return self._flip_and_erase(pixels, view, random)

    @property
    def _size(self) -> tuple[int, int]:
        size = self._clip.size or 0  # the configuration requires one
        return size, size

    def _random_view(self, height: int, width: int, random: np.random.Generator) -> View:
        crops, flips = random.random((CROP_ATTEMPTS, 4)), random.random(2)
        return random_view(height, width, self._augmentation.crop, crops, flips)

    def _policy(self, frames: list[Image.Image], random: np.random.Generator) -> list[Image.Image]:
        return apply_policy(frames, self._augmentation, random, self._clip.mean)

    def _flip_and_erase(self, pixels: Tensor, view: View, random: np.random.Generator) -> Tensor:
        """[C, F or 1, size, size] of bytes as floats -> [C, F, size, size], normalised."""
        pixels = normalise(pixels.flip(-1) if view.horizontal_flip else pixels, self._clip)
        if random.random() < self._augmentation.erase:
            pixels = erase_rectangle(pixels, random)
        return pixels.expand(-1, self._clip.frames, -1, -1)


def erase_rectangle(pixels: Tensor, random: np.random.Generator) -> Tensor:
    """Replace one rectangle of all frames [C, F, H, W] by Gaussian noise, independent per pixel, channel and frame."""
    height, width = pixels.shape[2:]
    for _ in range(ERASE_ATTEMPTS):
        area = random.uniform(*ERASED_AREA) * height * width
        aspect = math.exp(random.uniform(*LOG_ERASED_ASPECT))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows < height and columns < width:
            top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
            noise = random.standard_normal((*pixels.shape[:2], rows, columns), dtype=np.float32)
            pixels = pixels.clone()
            pixels[:, :, top : top + rows, left : left + columns] = torch.from_numpy(noise)
            break
    return pixels


def _label(info: SampleInfo) -> int:
    return -1 if info.label is None else info.label
