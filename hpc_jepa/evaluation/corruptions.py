"""Thirteen ways to damage a clip, five severities each, the same for a sample whoever asks.

Pixel severities follow ImageNet-C (Hendrycks & Dietterich 2019) where it has them: noise, blur, brightness, JPEG.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri
from torch import Tensor

from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.encode import H264, encode
from hpc_jepa.io.random_streams import RandomStream, uniforms

UniformDraw = Callable[[tuple[int, ...]], NDArray[np.float64]]
"""Uniform numbers in [0, 1) of a shape, those of one sample and one kind of damage."""

BLUR_REFERENCE_SIDE = 224
"""Short side in pixels for which the widths of blur are given; they scale with the clip."""


@dataclass(frozen=True)
class CorruptionSpec:
    """One kind of damage.

    levels: what severities 1, 2, ... mean.
    moments: frames [F] read instead of those given, of a video of that many frames, at a level.
    order: which frames [F] of the clip are shown instead, at a level.
    pixels: bytes [F, H, W, C] and a level -> bytes.
    """

    levels: tuple[float, ...]
    frame_indices: Callable[[NDArray[np.int64], int, float], NDArray[np.int64]] | None = None
    frame_order: Callable[[int, float, UniformDraw], NDArray[np.int64]] | None = None
    pixels: Callable[[NDArray[np.uint8], float, UniformDraw], NDArray[np.uint8]] | None = None


@dataclass(frozen=True)
class ClipCorruption:
    """A kind of damage at one level; see ``data.evaluation.Corruption``."""

    name: str
    level: float
    seed: int = 0

    def frame_indices(self, indices: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
        """Frames of the video that are read instead."""
        change = CORRUPTIONS[self.name].frame_indices
        return indices if change is None else change(indices, frames, self.level)

    def __call__(self, pixels: Tensor, sample: int) -> Tensor:
        """Clip [C, F, H, W], values 0 to 255 -> the damaged clip."""
        kind, draw = CORRUPTIONS[self.name], self._draw(sample)
        if kind.frame_order is not None:
            return pixels[:, torch.from_numpy(kind.frame_order(pixels.shape[1], self.level, draw))]
        if kind.pixels is not None:
            frames = pixels.permute(1, 2, 3, 0).round().clamp(0, 255).byte().numpy()
            damaged = kind.pixels(frames, self.level, draw)
            return torch.from_numpy(damaged).permute(3, 0, 1, 2).float()
        return pixels

    def _draw(self, sample: int) -> UniformDraw:
        """The same numbers at every severity, so that one clip gets worse and not another one bad."""
        part = list(CORRUPTIONS).index(self.name)
        return lambda shape: uniforms(self.seed, RandomStream.CORRUPTION, sample, shape, part)


def _hold_last_frame(kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Each frame that is lost shows the last one before it that is kept; before the first, the first."""
    latest = np.where(kept, np.arange(len(kept)), -1)
    held = np.maximum.accumulate(latest)
    return np.where(held < 0, int(np.argmax(kept)), held).astype(np.int64)


def _lost_count(frames: int, share: float) -> int:
    """How many of the frames are lost; one at least is kept."""
    return min(round(frames * share), frames - 1)


def drop_random(frames: int, share: float, draw: UniformDraw) -> NDArray[np.int64]:
    """Frames are lost here and there."""
    order: NDArray[np.int64] = draw((frames,)).argsort().argsort()
    return _hold_last_frame(order >= _lost_count(frames, share))


def drop_block(frames: int, share: float, draw: UniformDraw) -> NDArray[np.int64]:
    """Frames in a row are lost."""
    lost = _lost_count(frames, share)
    start = int(draw((1,))[0] * (frames - lost + 1))
    place = np.arange(frames)
    return _hold_last_frame((place < start) | (place >= start + lost))


def drop_last(frames: int, share: float, draw: UniformDraw) -> NDArray[np.int64]:
    """The clip ends early, its last frame stays."""
    return np.minimum(np.arange(frames), frames - _lost_count(frames, share) - 1)


def shuffle(frames: int, share: float, draw: UniformDraw) -> NDArray[np.int64]:
    """A share of the frames, two at least, changes places at random."""
    places = np.sort(draw((frames,)).argsort()[: max(round(frames * share), 2)])
    order = np.arange(frames)
    order[places] = places[draw((2 * frames,))[frames : frames + len(places)].argsort()]
    return order


def reverse(frames: int, level: float, draw: UniformDraw) -> NDArray[np.int64]:
    """The clip backwards."""
    return np.arange(frames)[::-1].copy()


def change_stride(indices: NDArray[np.int64], frames: int, factor: float) -> NDArray[np.int64]:
    """Steps between frames are ``factor`` times as long, around the middle; past the ends the outer frames are held."""
    middle = (indices[0] + indices[-1]) / 2
    moved = middle + (indices - middle) * factor
    return np.asarray(moved.clip(0, frames - 1), dtype=np.int64)


def add_noise(frames: NDArray[np.uint8], sigma: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """Gaussian noise, independent for every pixel, channel and frame; ``sigma`` in units of the full range."""
    # 2^-54 moves a zero, which the draw may contain, to where the normal quantile is finite.
    return _to_bytes(frames + 255 * sigma * ndtri(draw(frames.shape) + 2.0**-54))


def blur(frames: NDArray[np.uint8], sigma: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """Gaussian blur; ``sigma`` in pixels of a clip whose short side is 224."""
    width = sigma * min(frames.shape[1:3]) / BLUR_REFERENCE_SIDE
    return _to_bytes(gaussian_filter(frames.astype(np.float32), (0, width, width, 0)))


def brighten(frames: NDArray[np.uint8], amount: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """Every pixel brighter by a part of the full range."""
    return _to_bytes(frames + 255 * amount)


def compress_jpeg(frames: NDArray[np.uint8], quality: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """Every frame through JPEG."""
    return np.stack([_jpeg_round_trip(frame, int(quality)) for frame in frames])


def compress_h264(frames: NDArray[np.uint8], crf: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """The clip through H.264; a last odd row or column is repeated on the way."""
    count, height, width = frames.shape[:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    video = encode(even, 10.0, H264.model_copy(update={"crf": int(crf)}))
    decoded = decode_frames(video, range(count))
    return np.ascontiguousarray(decoded[:, :height, :width])


def occlude(frames: NDArray[np.uint8], share: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """A grey rectangle of the form of the frame, over ``share`` of its area, at one place in all frames."""
    sides = [round(side * share**0.5) for side in frames.shape[1:3]]
    top, left = (
        int(u * (side - hidden + 1)) for u, side, hidden in zip(draw((2,)), frames.shape[1:3], sides, strict=True)
    )
    hidden = frames.copy()
    hidden[:, top : top + sides[0], left : left + sides[1]] = 128
    return hidden


def _jpeg_round_trip(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image)


def _to_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(values).clip(0, 255), dtype=np.uint8)


DROPOUT_FRACTIONS = (0.25, 0.5, 0.625, 0.75, 0.875)

CORRUPTIONS = {
    "frame_dropout_random": CorruptionSpec(DROPOUT_FRACTIONS, frame_order=drop_random),
    "frame_dropout_block": CorruptionSpec(DROPOUT_FRACTIONS, frame_order=drop_block),
    "frame_dropout_last": CorruptionSpec(DROPOUT_FRACTIONS, frame_order=drop_last),
    "temporal_shuffle": CorruptionSpec((0.2, 0.4, 0.6, 0.8, 1.0), frame_order=shuffle),
    "reversal": CorruptionSpec((1.0,), frame_order=reverse),
    "stride_longer": CorruptionSpec((1.25, 1.5, 2.0, 3.0, 4.0), frame_indices=change_stride),
    "stride_shorter": CorruptionSpec((0.8, 0.6, 0.4, 0.2, 0.1), frame_indices=change_stride),
    "noise": CorruptionSpec((0.08, 0.12, 0.18, 0.26, 0.38), pixels=add_noise),
    "blur": CorruptionSpec((1.0, 2.0, 3.0, 4.0, 6.0), pixels=blur),
    "brightness": CorruptionSpec((0.1, 0.2, 0.3, 0.4, 0.5), pixels=brighten),
    "jpeg": CorruptionSpec((25, 18, 15, 10, 7), pixels=compress_jpeg),
    "h264": CorruptionSpec((30, 35, 40, 45, 51), pixels=compress_h264),
    "occlusion": CorruptionSpec((0.1, 0.2, 0.3, 0.4, 0.5), pixels=occlude),
}
"""By name; the order decides the draws, so new ones go to the end."""
