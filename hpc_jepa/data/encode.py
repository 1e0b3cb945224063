"""Video encoding with short closed GOPs, for fast random access, and reproducible bytes."""

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Literal, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
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
    rgb = (VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24") for pixels in frames)
    converted = (reformatter.reformat(frame, format=encoding.pixel_format, threads=1) for frame in rgb)
    height, width = frames.shape[1:3]
    return encode_frames(converted, width, height, Fraction(fps), encoding)[0]


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
    muxing = {"fflags": "bitexact"} if encoding.extension == "webm" else {}  # or Matroska gets a random segment UID
    with av.open(file, "w", format=encoding.extension, options=muxing) as container:
        stream = container.add_stream(encoding.codec, rate=rate, options=_options(encoding))
        stream.width, stream.height, stream.pix_fmt = width, height, encoding.pixel_format
        context = stream.codec_context
        context.thread_count = 1
        if colour is not None:
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = colour
        for count, frame in enumerate(frames, start=1):
            frame.pts, frame.time_base = count - 1, 1 / rate
            frame.pict_type = 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue(), count


def _options(encoding: Encoding) -> dict[str, str]:
    """Encoder options."""
    options = {"crf": str(encoding.crf)}
    if encoding.codec == "libvpx-vp9":
        # Hidden alt-ref frames would break "one packet per frame" and cost decoding time.
        gop = {"g": str(encoding.gop), "keyint_min": str(encoding.gop), "auto-alt-ref": "0", "lag-in-frames": "0"}
        return options | gop | {"b": "0", "deadline": "good", "cpu-used": encoding.preset, "row-mt": "0"}
    gop_params = f"keyint={encoding.gop}:min-keyint={encoding.gop}:scenecut=0:open-gop=0:bframes=0"
    options |= {"preset": encoding.preset, "tune": encoding.tune}
    # mbtree/cutree weigh blocks by later references, which short GOPs have few of; their output is not reproducible.
    if encoding.codec == "libx264":
        return options | {"x264-params": f"{gop_params}:threads=1:lookahead-threads=1:mbtree=0"}
    return options | {"x265-params": f"{gop_params}:pools=none:frame-threads=1:wpp=0:cutree=0:log-level=error"}
