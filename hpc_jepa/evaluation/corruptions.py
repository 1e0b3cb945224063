"""Corruptions of evaluation clips: one function and one entry of CORRUPTIONS each, deterministic per sample.

Severities of noise, blur, brightness and JPEG follow ImageNet-C (Hendrycks & Dietterich 2019).
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
"""Shape -> uniform numbers in [0, 1), seeded by sample and corruption."""

BLUR_REFERENCE_SIDE = 224
"""Short side in pixels for which blur widths are given; they scale with the clip."""


@dataclass(frozen=True)
class CorruptionSpec:
    """A corruption: the levels of severities 1, 2, ..., and exactly one of three functions.

    frame_indices: (indices [F], frames of the video, level) -> indices [F] to decode instead.
    frame_order: (F, level, draw) -> indices [F] into the frames of the clip to show instead.
    pixels: (bytes [F, H, W, C], level, draw) -> corrupted bytes.
    """

    levels: tuple[float, ...]
    frame_indices: Callable[[NDArray[np.int64], int, float], NDArray[np.int64]] | None = None
    frame_order: Callable[[int, float, UniformDraw], NDArray[np.int64]] | None = None
    pixels: Callable[[NDArray[np.uint8], float, UniformDraw], NDArray[np.uint8]] | None = None


@dataclass(frozen=True)
class ClipCorruption:
    """A corruption at one level; implements ``data.evaluation_clips.Corruption``."""

    name: str
    level: float
    seed: int = 0

    def frame_indices(self, indices: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
        """Frames of the video to decode instead of ``indices``."""
        change = CORRUPTIONS[self.name].frame_indices
        return indices if change is None else change(indices, frames, self.level)

    def __call__(self, pixels: Tensor, sample: int) -> Tensor:
        """Clip [C, F, H, W], values 0 to 255 -> the corrupted clip."""
        spec, draw = CORRUPTIONS[self.name], self._draw(sample)
        if spec.frame_order is not None:
            return pixels[:, torch.from_numpy(spec.frame_order(pixels.shape[1], self.level, draw))]
        if spec.pixels is not None:
            frames = pixels.permute(1, 2, 3, 0).round().clamp(0, 255).byte().numpy()
            corrupted = spec.pixels(frames, self.level, draw)
            return torch.from_numpy(corrupted).permute(3, 0, 1, 2).float()
        return pixels

    def _draw(self, sample: int) -> UniformDraw:
        """The same numbers at every severity, so that severities of one clip differ only in strength."""
        part = list(CORRUPTIONS).index(self.name)
        return lambda shape: uniforms(self.seed, RandomStream.CORRUPTION, sample, shape, part)


def _hold_last_frame(kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index of the last kept frame at or before each frame; of the first kept frame before it."""
    latest = np.where(kept, np.arange(len(kept)), -1)
    held = np.maximum.accumulate(latest)
    return np.where(held < 0, int(np.argmax(kept)), held).astype(np.int64)


def _dropped_count(frames: int, fraction: float) -> int:
    """Number of frames to drop, at most all but one."""
    return min(round(frames * fraction), frames - 1)


def drop_random(frames: int, fraction: float, draw: UniformDraw) -> NDArray[np.int64]:
    """Drop frames at random."""
    order: NDArray[np.int64] = draw((frames,)).argsort().argsort()
    return _hold_last_frame(order >= _dropped_count(frames, fraction))


def drop_block(frames: int, fraction: float, draw: UniformDraw) -> NDArray[np.int64]:
    """Drop consecutive frames."""
    dropped = _dropped_count(frames, fraction)
    start = int(draw((1,))[0] * (frames - dropped + 1))
    index = np.arange(frames)
    return _hold_last_frame((index < start) | (index >= start + dropped))


def drop_last(frames: int, fraction: float, draw: UniformDraw) -> NDArray[np.int64]:
    """Drop the last frames and hold the one before them."""
    return np.minimum(np.arange(frames), frames - _dropped_count(frames, fraction) - 1)


def shuffle(frames: int, fraction: float, draw: UniformDraw) -> NDArray[np.int64]:
    """Permute a fraction of the frames, at least two."""
    positions = np.sort(draw((frames,)).argsort()[: max(round(frames * fraction), 2)])
    order = np.arange(frames)
    order[positions] = positions[draw((2 * frames,))[frames : frames + len(positions)].argsort()]
    return order


def reverse(frames: int, level: float, draw: UniformDraw) -> NDArray[np.int64]:
    """Play the clip backwards."""
    return np.arange(frames)[::-1].copy()


def change_stride(indices: NDArray[np.int64], frames: int, factor: float) -> NDArray[np.int64]:
    """Multiply the stride between frames by ``factor`` around the middle; hold the first and last frame."""
    middle = (indices[0] + indices[-1]) / 2
    moved = middle + (indices - middle) * factor
    return np.asarray(moved.clip(0, frames - 1), dtype=np.int64)


def add_noise(frames: NDArray[np.uint8], sigma: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """Gaussian noise, independent per pixel, channel and frame; ``sigma`` as a fraction of the full range."""
    # The draw may contain 0, where the normal quantile is infinite; 2^-54 avoids it.
    return _to_bytes(frames + 255 * sigma * ndtri(draw(frames.shape) + 2.0**-54))


def blur(frames: NDArray[np.uint8], sigma: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """Gaussian blur; ``sigma`` in pixels of a clip whose short side is BLUR_REFERENCE_SIDE."""
    width = sigma * min(frames.shape[1:3]) / BLUR_REFERENCE_SIDE
    return _to_bytes(gaussian_filter(frames.astype(np.float32), (0, width, width, 0)))


def brighten(frames: NDArray[np.uint8], amount: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """Add a fraction of the full range to every pixel."""
    return _to_bytes(frames + 255 * amount)


def compress_jpeg(frames: NDArray[np.uint8], quality: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """Encode and decode every frame as JPEG."""
    return np.stack([_jpeg_round_trip(frame, int(quality)) for frame in frames])


def compress_h264(frames: NDArray[np.uint8], crf: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """Encode and decode the clip as H.264; odd sides are padded to even ones meanwhile."""
    count, height, width = frames.shape[:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    video = encode(even, 10.0, H264.model_copy(update={"crf": int(crf)}))
    decoded = decode_frames(video, range(count))
    return np.ascontiguousarray(decoded[:, :height, :width])


def occlude(frames: NDArray[np.uint8], fraction: float, draw: UniformDraw) -> NDArray[np.uint8]:
    """Cover ``fraction`` of the area with a grey rectangle of the frame's aspect ratio, at one position."""
    sides = [round(side * fraction**0.5) for side in frames.shape[1:3]]
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
"""By name. The position seeds the random numbers, so append new entries."""
