"""Readers of stored videos: all frames of a file, and frames at any indices, by every installed decoder."""

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.data.decode import count_frames, decode_frames
from hpc_jepa.errors import InputError

Frames = NDArray[np.uint8]
BLOCK_TOLERANCE = 12
"""Re-encoding blurs edges of colour."""

DALI_BLOCK_TOLERANCE = 20
"""DALI does not interpolate subsampled colour."""

DALI_CPU_CODECS = ("vp8", "vp9", "mjpeg")


class Reader(NamedTuple):
    """A decoder.

    module: that it needs; read: RGB frames [F, H, W, 3] of a file at indices, None for all; tolerance: grey levels
    between means of blocks of 8 by 8 pixels; codecs: that it decodes, if not all.
    """

    name: str
    module: str
    read: Callable[[bytes, Sequence[int] | None], Frames]
    tolerance: int
    codecs: tuple[str, ...] | None = None

    @property
    def installed(self) -> bool:
        """Whether it can be used here."""
        return importlib.util.find_spec(self.module) is not None


def pyav(video: bytes, indices: Sequence[int] | None) -> Frames:
    """As this package decodes on the CPU."""
    return decode_frames(video, range(count_frames(video)) if indices is None else indices)


def torchcodec(video: bytes, indices: Sequence[int] | None) -> Frames:
    """As in torchcodec's documentation: frames by index."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(video, dimension_order="NHWC", num_ffmpeg_threads=1)
    chosen = range(len(decoder)) if indices is None else indices
    frames: Frames = decoder.get_frames_at(list(chosen)).data.numpy()
    return frames


def dali(video: bytes, indices: Sequence[int] | None) -> Frames:
    """DALI on the CPU. Raises RuntimeError if it does not decode."""
    pipeline = _dali_pipeline(indices is None)
    pipeline.feed_input("videos", [np.frombuffer(video, np.uint8)])
    if indices is not None:
        pipeline.feed_input("frames", np.array([indices], np.int32))
    (output,) = pipeline.run()
    return np.array(output.at(0))


@cache
def _dali_pipeline(all_frames: bool) -> Any:
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        encoded = fn.external_source(name="videos", dtype=types.UINT8, ndim=1)
        chosen = {} if all_frames else {"frames": fn.external_source(name="frames", dtype=types.INT32, ndim=1)}
        pipeline.set_outputs(fn.decoders.video(encoded, device="cpu", **chosen))
    pipeline.build()
    return pipeline


READERS = {
    reader.name: reader
    for reader in (
        Reader("pyav", "av", pyav, BLOCK_TOLERANCE),
        Reader("dali", "nvidia.dali", dali, DALI_BLOCK_TOLERANCE, DALI_CPU_CODECS),
        Reader("torchcodec", "torchcodec", torchcodec, BLOCK_TOLERANCE),
    )
}


def readers_named(names: str) -> list[Reader]:
    """Readers by names separated by commas. Raises InputError for an unknown one."""
    unknown = [name for name in names.split(",") if name not in READERS]
    if unknown:
        raise InputError(f"--readers: unknown {', '.join(unknown)}; choose from {', '.join(READERS)}")
    return [READERS[name] for name in names.split(",")]
