"""Frame sampling: which frames of a video make a clip."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import EvaluationClipConfig
from hpc_jepa.config.data import ClipConfig

HALF_TICK = 5e-5
"""Times are rounded to 0.1 ms."""


def training_frames(
    frames: int, fps: float, clip: ClipConfig, start: float, times: Sequence[float] | None = None
) -> NDArray[np.int64]:
    """Frame indices [F] of a clip at a random position; ``start`` is uniform in [0, 1).

    The sampling of V-JEPA 2: in a video longer than the span c = F * stride, the window ends at a uniform integer in
    [c, frames) and its F indices are evenly spaced: a step of stride * F / (F - 1) rounded down. A shorter video is
    used whole, every ``stride`` frames, and its last frame is repeated. With ``clip.fps`` and the ``times`` of a video
    of variable rate, the same indices of a video of constant rate are replaced by the frames shown at their times.
    """
    indices = _evenly_spaced(frames, fps, clip, start)
    if clip.fps is None or times is None:
        return indices
    return np.searchsorted(times, indices * (times[-1] / (frames - 1)) + HALF_TICK, side="right") - 1


def real_frames(frames: int, fps: float, clip: ClipConfig) -> int:
    """The leading frames of a clip that are not padding, at least 1: a video shorter than the span ends before it."""
    if frames > clip.span(fps):
        return clip.frames
    return min(max(frames // clip.stride_at(fps), 1), clip.frames)


def _evenly_spaced(frames: int, fps: float, clip: ClipConfig, start: float) -> NDArray[np.int64]:
    span = clip.span(fps)
    if frames > span:
        end = span + int(start * (frames - span))
        spread = np.linspace(end - span, end, clip.frames)
        return spread.clip(max=end - 1).astype(np.int64)
    spread = np.full(clip.frames, float(frames))
    distinct = frames // clip.stride_at(fps)
    spread[:distinct] = np.linspace(0, frames, distinct)
    return spread.clip(max=frames - 1).astype(np.int64)


def evaluation_frames(
    frames: int, clip: EvaluationClipConfig, clip_index: int = 0, start: float = 0.0
) -> NDArray[np.int64]:
    """Frame indices [F] of one evaluation clip of a video; the last frame of a short video is repeated.

    ``leading``: 0, stride, 2 * stride, ...; ``uniform``: evenly spaced over the whole video, first and last frame
    included; ``segments``: see :func:`segment_frames`, to which ``start`` belongs. With several clips per video,
    leading clips start at evenly spaced frames, and each uniform clip is shifted by a fraction of a step;
    ``clip_index`` counts from 0.
    """
    if clip.sampling == "segments":
        return segment_frames(frames, clip, clip_index, start)
    if clip.sampling == "uniform" and frames >= clip.frames:
        step = (frames - 1) / max(clip.frames - 1, 1)
        spread = np.linspace(0, frames - 1, clip.frames) + step * clip_index / clip.clips
        return spread.clip(max=frames - 1).astype(np.int64)
    stride = clip.stride if clip.sampling == "leading" else 1
    slack = max(frames - 1 - (clip.frames - 1) * stride, 0)
    start = slack * clip_index // max(clip.clips - 1, 1)
    return (start + np.arange(clip.frames) * stride).clip(max=frames - 1)


def segment_frames(frames: int, clip: EvaluationClipConfig, segment: int, start: float) -> NDArray[np.int64]:
    """Frame indices [F] of a clip in one of ``clip.clips`` equal parts of a video; ``start`` is uniform in [0, 1).

    The sampling of V-JEPA 2's frozen evaluation (``VideoDataset`` in facebookresearch/vjepa2, ``allow_clip_overlap``).
    A part longer than the span c = F * stride holds a window that ends at a uniform integer in [c, length); its F
    indices are evenly spaced. In a shorter part the windows start evenly spaced over the whole video and overlap; a
    window of min(c, frames) - 1 frames is read every ``stride`` frames, and its last frame is repeated.
    """
    span, length = clip.frames * clip.stride, frames // clip.clips
    if length > span:
        end = span + int(start * (length - span))
        spread = np.linspace(end - span, end, clip.frames).clip(max=end - 1)
        return spread.astype(np.int64) + segment * length
    last = min(span, frames) - 1
    distinct = last // clip.stride
    spread = np.full(clip.frames, float(last))
    spread[:distinct] = np.linspace(0, last, distinct)
    shift = max(frames - span, 0) // max(clip.clips - 1, 1)
    return spread.clip(max=max(last - 1, 0)).astype(np.int64) + segment * shift
