"""Transcoding: decode, cut, scale and re-encode a video; or keep its video stream only."""

import io
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from hpc_jepa.data.decode import VideoInfo, open_video, require_intact
from hpc_jepa.data.encode import MAX_RATE_DENOMINATOR, Encoding, encode_frames
from hpc_jepa.data.shards.container import MAX_FRAME_PIXELS
from hpc_jepa.data.shards.frame_conversion import convert, stored_colour, upright
from hpc_jepa.errors import UndecodableError

MAX_FPS = 1000
DEFAULT_FPS = Fraction(25)
"""Assumed frames per second if the file has no rate, or one above MAX_FPS."""


def transcode(
    video: bytes, encoding: Encoding, start: float | None = None, end: float | None = None
) -> tuple[bytes, VideoInfo]:
    """Re-encode the frames with ``start`` <= time < ``end`` (seconds), upright, scaled to ``encoding.short_side``.

    No frame is dropped or repeated; times follow the average rate. Nothing is enlarged, sides become even. Raises
    UndecodableError if a frame is damaged.
    """
    with open_video(video) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or DEFAULT_FPS
        if not 0 < rate <= MAX_FPS:
            rate = DEFAULT_FPS
        whole = start is None and end is None
        frames = upright(_frames(container, stream) if whole else _cut(container, stream, start, end))
        first = next(frames, None)
        if first is None:
            raise UndecodableError(_no_frames_message(container, start, end))
        width, height = _scaled_size(first, encoding.short_side)
        scaled = convert(chain([first], frames), width, height, encoding.pixel_format)
        data, count = encode_frames(scaled, width, height, rate, encoding, stored_colour(first))
        fps = float(rate.limit_denominator(MAX_RATE_DENOMINATOR))
        return data, VideoInfo(count, fps, width, height, encoding.decoder)


def keep_video_stream(video: bytes, extension: str) -> bytes:
    """Remux the video stream only, without sound, cover pictures and subtitles; frames are not re-encoded."""
    file = io.BytesIO()
    with open_video(video) as (container, stream):
        muxer = "matroska" if extension == "mkv" else extension
        with av.open(file, "w", format=muxer, options={"fflags": "bitexact"}) as output:
            output_stream = output.add_stream_from_template(stream)
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream = output_stream
                    output.mux(packet)
    return file.getvalue()


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All frames. Raises UndecodableError if a frame is missing or damaged."""
    # MPEG-4 in AVI may pack two frames into one packet, followed by a packet of 8 bytes without a frame.
    empty = 8 if stream.codec_context.name == "mpeg4" else 0
    packets = frames = 0
    for packet in container.demux(stream):
        packets += packet.size > empty
        for frame in stream.codec_context.decode(packet if packet.size else None):
            frames += 1
            yield require_intact(frame)
    if frames < packets:
        raise UndecodableError(f"only {frames} of {packets} frames decode")


def _cut(
    container: InputContainer, stream: VideoStream, start: float | None, end: float | None
) -> Iterator[VideoFrame]:
    """Frames with start <= time < end, decoded from the preceding key frame."""
    first, last = start or 0.0, float("inf") if end is None else end
    origin = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0
    if first and stream.time_base:
        container.seek(int((first + origin) / stream.time_base), stream=stream)
    for frame in container.decode(stream):
        if frame.time is None:
            raise UndecodableError("cannot be cut, its frames have no presentation times")
        if frame.time - origin >= last:
            return
        if frame.time - origin >= first:
            yield require_intact(frame)


def _no_frames_message(container: InputContainer, start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return "has no frames"
    duration = "" if container.duration is None else f"; it lasts {container.duration / av.time_base:.1f} s"
    return f"no frames from {start or 0:g} s to {'its end' if end is None else f'{end:g} s'}{duration}"


def _scaled_size(frame: VideoFrame, short_side: int) -> tuple[int, int]:
    """Width and height, even, at most the original size."""
    if frame.width * frame.height > MAX_FRAME_PIXELS:
        raise UndecodableError(f"has frames of {frame.width}x{frame.height}, more than {MAX_FRAME_PIXELS} pixels")
    scale = min(1.0, short_side / min(frame.width, frame.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
    return width, height
