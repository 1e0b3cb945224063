"""Video encoding with short closed GOPs, for fast random access, and reproducible bytes."""

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Literal, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from pydantic import Field

from hpc_jepa.config.strict import Strict

MAX_RATE_DENOMINATOR = 1001
"""Frame rates are stored as fractions; 30000/1001 has the largest denominator in use."""


class Encoding(Strict):
    """Encoder settings: short closed GOPs without B-frames, so that a clip decodes few frames besides its own.

    Encoding uses one thread, so that the same frames always give the same bytes.
    """

    codec: Literal["libx264", "libx265", "libvpx-vp9"] = "libx264"
    crf: int = Field(23, ge=0, le=63, description="constant quality; lower is better; each codec has its own scale")
    gop: int = Field(8, gt=0, description="key frame interval in frames")
    preset: str = Field("veryfast", description="encoder preset; for VP9 a speed from 0 (slow) to 8")
    tune: str = "fastdecode"
    pixel_format: str = "yuv420p"
    short_side: int = Field(256, ge=16, description="larger videos are scaled down to this many pixels")

    @property
    def extension(self) -> str:
        """File extension, also of the tar member; for FFmpeg the container format."""
        return "webm" if self.codec == "libvpx-vp9" else "mp4"

    @property
    def decoder(self) -> str:
        """FFmpeg's name of the codec when decoding."""
        return {"libx264": "h264", "libx265": "hevc", "libvpx-vp9": "vp9"}[self.codec]


H264 = Encoding()
HEVC = Encoding(codec="libx265", crf=26)
VP9 = Encoding(codec="libvpx-vp9", crf=33, preset="6", tune="none")
ENCODINGS = {"h264": H264, "hevc": HEVC, "vp9": VP9}


class Colour(NamedTuple):
    """Colour properties as FFmpeg enumerates them; without them a decoder has to guess."""

    range: int = 0
    space: int = 2
    primaries: int = 2
    transfer: int = 2


def encode(frames: NDArray[np.uint8], fps: float, encoding: Encoding = H264) -> bytes:
    """Encode RGB frames [F, H, W, 3]. H and W must be even, because chroma is subsampled."""
    reformatter = VideoReformatter()
    converted = (
        reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"),
            format=encoding.pixel_format,
            threads=1,
        )
        for pixels in frames
    )
    height, width = frames.shape[1:3]
    data, _ = encode_frames(converted, width, height, Fraction(fps), encoding)
    return data


def encode_frames(
    frames: Iterable[VideoFrame],
    width: int,
    height: int,
    rate: Fraction,
    encoding: Encoding,
    colour: Colour | None = None,
) -> tuple[bytes, int]:
    """Encode frames that have the encoding's pixel format; returns the file and the number of frames.

    Presentation times follow the constant ``rate``; those of the frames are ignored.
    """
    file = io.BytesIO()
    count = 0
    rate = rate.limit_denominator(MAX_RATE_DENOMINATOR)
    with av.open(file, "w", format=encoding.extension, options=_container_options(encoding)) as container:
        stream = container.add_stream(encoding.codec, rate=rate, options=_OPTIONS[encoding.codec](encoding))
        _configure(stream, width, height, encoding, colour)
        for count, frame in enumerate(frames, start=1):
            frame.pts, frame.time_base = count - 1, 1 / rate
            frame.pict_type = 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue(), count


def _configure(stream: VideoStream, width: int, height: int, encoding: Encoding, colour: Colour | None) -> None:
    stream.width, stream.height = width, height
    stream.pix_fmt = encoding.pixel_format
    context = stream.codec_context
    context.thread_count = 1
    if colour is not None:
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = colour


def _container_options(encoding: Encoding) -> dict[str, str]:
    """Without bitexact the Matroska muxer writes a random segment UID."""
    return {"fflags": "bitexact"} if encoding.extension == "webm" else {}


def _x264(encoding: Encoding) -> dict[str, str]:
    gop = f"keyint={encoding.gop}:min-keyint={encoding.gop}:scenecut=0:open-gop=0:bframes=0"
    return {
        "crf": str(encoding.crf),
        "preset": encoding.preset,
        "tune": encoding.tune,
        # mbtree weighs macroblocks by later references, which short GOPs have few of, and its output is not
        # reproducible.
        "x264-params": f"{gop}:threads=1:lookahead-threads=1:mbtree=0",
    }


def _x265(encoding: Encoding) -> dict[str, str]:
    gop = f"keyint={encoding.gop}:min-keyint={encoding.gop}:scenecut=0:open-gop=0:bframes=0"
    return {
        "crf": str(encoding.crf),
        "preset": encoding.preset,
        "tune": encoding.tune,
        "x265-params": f"{gop}:pools=none:frame-threads=1:wpp=0:cutree=0:log-level=error",
    }


def _vp9(encoding: Encoding) -> dict[str, str]:
    return {
        "crf": str(encoding.crf),
        "b": "0",
        "g": str(encoding.gop),
        "keyint_min": str(encoding.gop),
        "deadline": "good",
        "cpu-used": encoding.preset,
        # Hidden alt-ref frames would break "one packet per frame" and cost decoding time.
        "auto-alt-ref": "0",
        "lag-in-frames": "0",
        "row-mt": "0",
    }


_OPTIONS = {"libx264": _x264, "libx265": _x265, "libvpx-vp9": _vp9}
