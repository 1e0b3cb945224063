"""Frames to an H.264 file that decodes fast from any frame."""

import io
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from hpc_jepa.config.strict import Strict


class Encoding(Strict):
    """How frames are compressed. Groups of pictures are short and closed, without B-frames, so that a clip costs little
    more than its own frames; one thread, so that the same frames always give the same bytes.
    """

    codec: Literal["libx264"] = "libx264"
    crf: int = 23
    gop: int = 8
    preset: str = "veryfast"
    tune: str = "fastdecode"
    pixel_format: str = "yuv420p"


H264 = Encoding()


def encode(frames: NDArray[np.uint8], fps: float, encoding: Encoding = H264) -> bytes:
    """RGB frames [F, H, W, 3] -> an mp4 file. H and W must be even (chroma is subsampled)."""
    file = io.BytesIO()
    reformatter = VideoReformatter()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(
            encoding.codec, rate=Fraction(fps).limit_denominator(1001), options=_x264(encoding)
        )
        _describe(stream, frames, encoding)
        for time, pixels in enumerate(frames):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture = reformatter.reformat(rgb, format=encoding.pixel_format, threads=1)
            picture.pts = time
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def _describe(stream: VideoStream, frames: NDArray[np.uint8], encoding: Encoding) -> None:
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = encoding.pixel_format
    stream.codec_context.thread_count = 1


def _x264(encoding: Encoding) -> dict[str, str]:
    groups = f"keyint={encoding.gop}:min-keyint={encoding.gop}:scenecut=0:open-gop=0:bframes=0"
    return {
        "crf": str(encoding.crf),
        "preset": encoding.preset,
        "tune": encoding.tune,
        # Macroblock trees weigh what later frames reuse, of which short groups have little, and with them the same
        # frames do not always give the same bytes.
        "x264-params": f"{groups}:threads=1:lookahead-threads=1:mbtree=0",
    }
