"""Pictures to a video file that decodes fast from any frame."""

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
"""Frame rates are stored as fractions; 30000/1001 is the finest in use."""


class Encoding(Strict):
    """How frames are compressed. Groups of pictures are short and closed, without B-frames, so that a clip costs little
    more than its own frames; one thread, so that the same frames always give the same bytes.
    """

    codec: Literal["libx264", "libx265", "libvpx-vp9"] = "libx264"
    crf: int = Field(23, ge=0, le=63, description="constant quality, smaller is better; scales differ between codecs")
    gop: int = Field(8, gt=0, description="frames from one key frame to the next")
    preset: str = Field("veryfast", description="effort; for VP9 a speed from 0, slow, to 8")
    tune: str = "fastdecode"
    pixel_format: str = "yuv420p"
    short_side: int = Field(256, ge=16, description="pixels to which larger videos are scaled; nothing is enlarged")

    @property
    def extension(self) -> str:
        """Name of the container, and of the member of a tar."""
        return "webm" if self.codec == "libvpx-vp9" else "mp4"

    @property
    def decoder(self) -> str:
        """What FFmpeg calls the codec when it reads the file."""
        return {"libx264": "h264", "libx265": "hevc", "libvpx-vp9": "vp9"}[self.codec]


H264 = Encoding()
HEVC = Encoding(codec="libx265", crf=26)
VP9 = Encoding(codec="libvpx-vp9", crf=33, preset="6", tune="none")
ENCODINGS = {"h264": H264, "hevc": HEVC, "vp9": VP9}


class Colour(NamedTuple):
    """What the numbers of a picture mean, as FFmpeg counts: a reader that is not told has to guess."""

    range: int = 0
    space: int = 2
    primaries: int = 2
    transfer: int = 2


def encode(frames: NDArray[np.uint8], fps: float, encoding: Encoding = H264) -> bytes:
    """RGB frames [F, H, W, 3] -> a video file. H and W must be even (chroma is subsampled)."""
    reformatter = VideoReformatter()
    pictures = (
        reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"),
            format=encoding.pixel_format,
            threads=1,
        )
        for pixels in frames
    )
    height, width = frames.shape[1:3]
    data, _ = encode_frames(pictures, width, height, Fraction(fps), encoding)
    return data


def encode_frames(
    pictures: Iterable[VideoFrame],
    width: int,
    height: int,
    rate: Fraction,
    encoding: Encoding,
    colour: Colour | None = None,
) -> tuple[bytes, int]:
    """Pictures in the encoding's pixel format -> a video file, and how many there were.

    Times are those of a constant ``rate``, whatever the pictures say.
    """
    file = io.BytesIO()
    count = 0
    rate = rate.limit_denominator(MAX_RATE_DENOMINATOR)
    with av.open(file, "w", format=encoding.extension, options=_reproducible(encoding)) as container:
        stream = container.add_stream(encoding.codec, rate=rate, options=_OPTIONS[encoding.codec](encoding))
        _describe(stream, width, height, encoding, colour)
        for count, picture in enumerate(pictures, start=1):
            picture.pts, picture.time_base = count - 1, 1 / rate
            picture.pict_type = 0
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue(), count


def _describe(stream: VideoStream, width: int, height: int, encoding: Encoding, colour: Colour | None) -> None:
    stream.width, stream.height = width, height
    stream.pix_fmt = encoding.pixel_format
    context = stream.codec_context
    context.thread_count = 1
    if colour is not None:
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = colour


def _reproducible(encoding: Encoding) -> dict[str, str]:
    """Matroska files get a random name of their own unless told not to."""
    return {"fflags": "bitexact"} if encoding.extension == "webm" else {}


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


def _x265(encoding: Encoding) -> dict[str, str]:
    groups = f"keyint={encoding.gop}:min-keyint={encoding.gop}:scenecut=0:open-gop=0:bframes=0"
    return {
        "crf": str(encoding.crf),
        "preset": encoding.preset,
        "tune": encoding.tune,
        "x265-params": f"{groups}:pools=none:frame-threads=1:wpp=0:cutree=0:log-level=error",
    }


def _vp9(encoding: Encoding) -> dict[str, str]:
    return {
        "crf": str(encoding.crf),
        "b": "0",
        "g": str(encoding.gop),
        "keyint_min": str(encoding.gop),
        "deadline": "good",
        "cpu-used": encoding.preset,
        # Frames that are never shown would break "as many packets as frames" and cost decoding time.
        "auto-alt-ref": "0",
        "lag-in-frames": "0",
        "row-mt": "0",
    }


_OPTIONS = {"libx264": _x264, "libx265": _x265, "libvpx-vp9": _vp9}
