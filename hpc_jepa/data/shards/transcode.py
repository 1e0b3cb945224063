"""A video decoded, cut, scaled and compressed anew, frame by frame; or freed of everything but its pictures."""

import io
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from hpc_jepa.data.decode import open_video, require_intact
from hpc_jepa.data.encode import Colour, Encoding, encode_frames
from hpc_jepa.data.shards.container import MAX_FRAME_PIXELS
from hpc_jepa.errors import UndecodableError

MAX_FPS = 1000
DEFAULT_FPS = Fraction(25)
"""Frames per second of a video that does not say, or claims more than ``FASTEST``."""


class Transcoded(NamedTuple):
    """A new file and its frames, their rate and size."""

    data: bytes
    frames: int
    fps: float
    width: int
    height: int


def transcode(video: bytes, encoding: Encoding, start: float | None = None, end: float | None = None) -> Transcoded:
    """Every frame from ``start`` to before ``end`` (seconds), upright, the short side at most ``encoding.short_side``.

    Frames keep their number and order; their times become those of the average rate. Sides become even. Raises
    UndecodableError unless all frames come out whole.
    """
    with open_video(video) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or DEFAULT_FPS
        if not 0 < rate <= MAX_FPS:
            rate = DEFAULT_FPS
        frames = _frames(container, stream) if start is None and end is None else _cut(container, stream, start, end)
        first = next(frames, None)
        if first is None:
            raise UndecodableError(_nothing(container, start, end))
        width, height = _scaled_size(first, encoding.short_side)
        colour = Colour(first.color_range, first.colorspace, first.color_primaries, first.color_trc)
        pictures = _scaled(chain([first], frames), width, height, encoding.pixel_format)
        data, count = encode_frames(pictures, width, height, rate, encoding, colour)
        return Transcoded(data, count, float(rate.limit_denominator(1001)), width, height)


def keep_video_stream(video: bytes, extension: str) -> bytes:
    """The same compressed frames in a file that holds nothing else: no sound, no cover, no subtitles."""
    file = io.BytesIO()
    with open_video(video) as (container, stream):
        form = "matroska" if extension == "mkv" else extension
        with av.open(file, "w", format=form, options={"fflags": "bitexact"}) as output:
            kept = output.add_stream_from_template(stream)
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream = kept
                    output.mux(packet)
    return file.getvalue()


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All frames. Raises UndecodableError if there are fewer than the file holds, or damaged ones."""
    packets = frames = 0
    for packet in container.demux(stream):
        packets += packet.size > _placeholder(stream)
        for frame in stream.codec_context.decode(packet if packet.size else None):
            frames += 1
            yield require_intact(frame)
    if frames < packets:
        raise UndecodableError(f"only {frames} of {packets} frames decode")


def _placeholder(stream: VideoStream) -> int:
    """Bytes of a packet that holds no frame: MPEG-4 in AVI may pack two frames into one and an empty one after it."""
    return 8 if stream.codec_context.name == "mpeg4" else 0


def _cut(
    container: InputContainer, stream: VideoStream, start: float | None, end: float | None
) -> Iterator[VideoFrame]:
    """Frames with start <= time < end, decoded from the key frame before."""
    first, last = start or 0.0, float("inf") if end is None else end
    origin = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0
    if first and stream.time_base:
        container.seek(int((first + origin) / stream.time_base), stream=stream)
    for frame in container.decode(stream):
        if frame.time is None:
            raise UndecodableError("cannot be cut, its frames have no times")
        if frame.time - origin >= last:
            return
        if frame.time - origin >= first:
            yield require_intact(frame)


def _nothing(container: InputContainer, start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return "holds no frames"
    lasts = "" if container.duration is None else f"; it lasts {container.duration / av.time_base:.1f} s"
    return f"no frames from {start or 0:g} s to {'its end' if end is None else f'{end:g} s'}{lasts}"


def _scaled_size(frame: VideoFrame, short_side: int) -> tuple[int, int]:
    """Width and height as shown, even, nothing enlarged."""
    if frame.width * frame.height > MAX_FRAME_PIXELS:
        raise UndecodableError(f"{frame.width}x{frame.height} is more than a video has")
    shown = (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
    scale = min(1.0, short_side / min(shown))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in shown)
    return width, height


def _scaled(frames: Iterator[VideoFrame], width: int, height: int, pixel_format: str) -> Iterator[VideoFrame]:
    """Averages areas, so that shrinking does not alias; a frame that fits already stays as it is."""
    reformatter = VideoReformatter()
    for frame in frames:
        yield reformatter.reformat(
            _upright(frame), width, height, pixel_format, interpolation=Interpolation.AREA, threads=1
        )


def _upright(frame: VideoFrame) -> VideoFrame:
    """Turned as the file says it is to be shown; cameras that were held sideways write such files."""
    turns = round(frame.rotation / 90) % 4
    if not turns:
        return frame
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns).astype(np.uint8)
    return VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
