"""Which frames of a video make a clip."""

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import EvaluationClipConfig
from hpc_jepa.config.data import ClipConfig


def training_frames(frames: int, fps: float, clip: ClipConfig, start: float) -> NDArray[np.int64]:
    """Frame indices [F] of a clip at a random place of a video; ``start`` is uniform in [0, 1).

    As V-JEPA 2 cuts clips: a video longer than the span c = F * stride gives a window that ends at a uniform integer in
    [c, frames), its F indices spread evenly, so that steps are stride * F / (F - 1) rounded down. A shorter one is used
    whole, every ``stride`` frames, and its last frame is repeated.
    """
    span = clip.span(fps)
    if frames > span:
        end = span + int(start * (frames - span))
        spread = np.linspace(end - span, end, clip.frames)
        return spread.clip(max=end - 1).astype(np.int64)
    spread = np.full(clip.frames, float(frames))
    distinct = frames // clip.stride_at(fps)
    spread[:distinct] = np.linspace(0, frames, distinct)
    return spread.clip(max=frames - 1).astype(np.int64)


def evaluation_frames(frames: int, clip: EvaluationClipConfig, number: int = 0) -> NDArray[np.int64]:
    """Frame indices [F] of one of the clips that evaluation sees; the last frame is repeated where a video is short.

    ``leading``: 0, stride, 2 * stride, ...; ``uniform``: spread over the whole video, first and last frame included.
    Of several clips, ``number`` counts from 0: leading ones begin evenly spread over the video, uniform ones each a
    part of a step later than the one before.
    """
    if clip.sampling == "uniform" and frames >= clip.frames:
        step = (frames - 1) / max(clip.frames - 1, 1)
        spread = np.linspace(0, frames - 1, clip.frames) + step * number / clip.clips
        return spread.clip(max=frames - 1).astype(np.int64)
    stride = clip.stride if clip.sampling == "leading" else 1
    room = max(frames - 1 - (clip.frames - 1) * stride, 0)
    start = room * number // max(clip.clips - 1, 1)
    return (start + np.arange(clip.frames) * stride).clip(max=frames - 1)
