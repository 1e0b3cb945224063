"""Video codecs and DALI."""

import io

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from hpc_jepa.cli.machine import CheckResult, first_line
from hpc_jepa.data.decode import UndecodableError, decode_frames
from hpc_jepa.errors import InputError

CODECS = (("H.264", "libx264", "mp4"), ("HEVC", "libx265", "mp4"), ("VP9", "libvpx-vp9", "webm"))
"""Name, encoder, container."""

QUIET = {"libx265": {"x265-params": "log-level=none"}}

MAX_DIFFERENCE = 8.0
"""Mean absolute difference (of 255) up to which decoded frames count as equal to the encoded ones."""


def dali_graphs() -> list[CheckResult]:
    """Run one clip through DALI on the CPU and, if there is one, decode H.264 on the GPU."""
    import torch

    from hpc_jepa.data.dali_pipeline import import_dali

    try:
        package = import_dali()
    except InputError as error:
        return [CheckResult("DALI", "missing", first_line(error), "see docs/installation.md")]
    found = [_clip(f"DALI {package.__version__} on the CPU", device=None)]
    if torch.cuda.is_available():
        return [*found, _clip("DALI on the GPU", device=0)]
    return [*found, CheckResult("DALI on the GPU", "note", "not tested: no GPU", "PyAV decodes on the CPU")]


def codec(name: str, encoder: str, container: str) -> CheckResult:
    """Encode and decode a few frames with PyAV."""
    frames = _frames()
    try:
        decoded = decode_frames(_encode(frames, encoder, container), range(len(frames)))
    except (av.FFmpegError, av.codec.codec.UnknownCodecError, UndecodableError) as error:
        return CheckResult(name, "missing", first_line(error), "install av from its wheel, which includes all codecs")
    difference = float(np.abs(decoded.astype(np.float32) - frames).mean())
    if difference > MAX_DIFFERENCE:
        return CheckResult(name, "missing", f"decoded pixels differ by {difference:.0f} of 255", "reinstall av")
    return CheckResult(name, "ok", f"PyAV encodes ({encoder}) and decodes")


def _clip(check: str, device: int | None) -> CheckResult:
    """Run one clip through the training graph, decoded on GPU ``device`` or, if None, before the graph."""
    from hpc_jepa.config.data import AugmentationConfig, ClipConfig
    from hpc_jepa.data.crop import View
    from hpc_jepa.data.dali_pipeline import ClipPipeline

    frames = _frames()
    count, height, width, _ = frames.shape
    video = frames if device is None else np.frombuffer(_encode(frames, "libx264", "mp4"), np.uint8)
    clip = ClipConfig(frames=count, stride=1, size=32)
    view = View(0, 0, height, width, horizontal_flip=False, vertical_flip=False)
    try:
        pipeline = ClipPipeline(
            clip, AugmentationConfig(), batch_size=1, device=device, decoder=None if device is None else "mixed"
        )
        pixels = pipeline.run([video], [view], [np.arange(count)])
    except RuntimeError as error:
        return CheckResult(check, "missing", first_line(error), "compare the drivers and codecs that DALI supports")
    return CheckResult(check, "ok", f"{'crops' if device is None else 'decodes H.264'}, to {list(pixels.shape)}")


def _frames() -> NDArray[np.uint8]:
    """A moving grey ramp: [8, 64, 64, 3]."""
    row = np.linspace(30, 220, 64)
    frames = np.stack([np.tile(np.roll(row, 2 * time), (64, 1)) for time in range(8)])
    return np.repeat(frames[..., None], 3, axis=-1).astype(np.uint8)


def _encode(frames: NDArray[np.uint8], encoder: str, container: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as video:
        stream = video.add_stream(encoder, rate=8, options=QUIET.get(encoder, {}))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        video.mux(stream.encode())
    return file.getvalue()
