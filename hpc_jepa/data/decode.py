"""Chosen frames of a compressed video, exact to the frame, decoding no more than needed."""

import io
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from hpc_jepa.data.images import decode_image, is_image, open_image
from hpc_jepa.errors import UndecodableError as UndecodableError

VideoPacket: TypeAlias = "Packet[VideoStream]"

DEMUXERS = {b"ftyp": "mp4", b"\x1aE\xdf\xa3": "matroska"}
"""Formats known by their first bytes, which FFmpeg then need not guess."""


class CropWindow(NamedTuple):
    """The part of the frames that is wanted, and the size of the whole frames it is a part of."""

    rows: slice
    columns: slice
    height: int
    width: int


class VideoInfo(NamedTuple):
    """What decoding a whole video once has shown. fps is the average over the video."""

    frames: int
    fps: float
    width: int
    height: int
    codec: str


def inspect_video(video: bytes) -> VideoInfo:
    """Decode every frame; an image is one. Raises UndecodableError unless all come out whole, each at its own time."""
    if is_image(video):
        with open_image(video) as image:
            image.load()
            return VideoInfo(1, 0.0, image.width, image.height, str(image.format).lower())
    with _opened(video) as (stream, packets):
        times = {frame.pts for frame in map(_whole, _decode(stream, packets))}
        decoded = len(times & {packet.pts for packet in packets})
        if decoded != len(packets):
            raise UndecodableError(f"only {decoded} of {len(packets)} frames decode to a time of their own")
        fps = float(stream.average_rate or 0)
        return VideoInfo(decoded, fps, stream.width, stream.height, stream.codec_context.name)


def decode_frames(
    video: bytes, indices: Sequence[int] | NDArray[np.int64], window: CropWindow | None = None
) -> NDArray[np.uint8]:
    """RGB frames [F, H, W, 3] at ``indices`` (any order, repeats allowed), counted in order of presentation.

    An image is a video of one frame. With ``window`` only that part of each frame is given. Raises UndecodableError
    when the bytes are no video, are damaged, hold fewer frames, or frames of another size than the window is meant for.
    """
    if is_image(video):
        return _repeated(decode_image(video), indices, window)
    with _opened(video) as (stream, packets):
        times = sorted(_time(packet) for packet in packets)
        if max(indices) >= len(times):
            raise UndecodableError(f"frame {max(indices)} was asked for, the video holds {len(times)}")
        rows, columns = _cut(window, stream.height, stream.width)
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(times[index], []).append(place)
        frames = np.empty((len(indices), len(rows), len(columns), 3), dtype=np.uint8)
        for time, picture in _pictures(stream, packets, places.keys()):
            for place in places[time]:
                frames[place] = picture[rows.start : rows.stop, columns.start : columns.stop]
        return frames


def _cut(window: CropWindow | None, height: int, width: int) -> tuple[range, range]:
    """Rows and columns that are wanted of frames of a size."""
    if window is None:
        return range(height), range(width)
    if (window.height, window.width) != (height, width):
        raise UndecodableError(f"is {width}x{height}, not {window.width}x{window.height} as its description says")
    return range(height)[window.rows], range(width)[window.columns]


def _pictures(
    stream: VideoStream, packets: list[VideoPacket], wanted: Set[int]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Time and RGB pixels of every wanted frame, once; the pixels are those of the frame's memory."""
    reformatter, missing = VideoReformatter(), set(wanted)
    for frame in chain.from_iterable(_decode(stream, run, wanted) for run in _runs(packets, wanted)):
        # Leading frames of an open group come out again, without their past, when the next group is decoded.
        if frame.pts in missing:
            missing.remove(frame.pts)
            yield frame.pts, _rgb(frame, reformatter, stream)
    if missing:
        raise UndecodableError(f"only {len(wanted) - len(missing)} of {len(wanted)} frames decode")


def _rgb(frame: VideoFrame, reformatter: VideoReformatter, stream: VideoStream) -> NDArray[np.uint8]:
    """A view [H, W, 3] of the memory of the converted frame; rows lie further apart there than they are long."""
    if (frame.height, frame.width) != (stream.height, stream.width):
        raise UndecodableError("changes its size on the way")
    plane = reformatter.reformat(_whole(frame), format="rgb24", threads=1).planes[0]
    rows: NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)


def _repeated(
    image: NDArray[np.uint8], indices: Sequence[int] | NDArray[np.int64], window: CropWindow | None
) -> NDArray[np.uint8]:
    if max(indices) > 0:
        raise UndecodableError(f"frame {max(indices)} was asked for, an image is one frame")
    rows, columns = _cut(window, *image.shape[:2])
    part = np.ascontiguousarray(image[rows.start : rows.stop, columns.start : columns.stop])
    return np.broadcast_to(part, (len(indices), *part.shape))


def count_frames(video: bytes) -> int:
    """Number of frames, without decoding them. Raises UndecodableError when the bytes are no video."""
    with _opened(video) as (_, packets):
        return len(packets)


def decode_scaled(video: bytes, short_side: int) -> tuple[NDArray[np.uint8], float]:
    """All RGB frames [F, H, W, 3] with the short side scaled to ``short_side`` and even sides, and frames per second.

    Averages areas, so that shrinking does not alias. Raises UndecodableError like ``inspect``.
    """
    with _opened(video) as (stream, packets):
        scale = short_side / min(stream.height, stream.width)
        height, width = (2 * round(side * scale / 2) for side in (stream.height, stream.width))
        reformatter = VideoReformatter()
        pictures = [
            reformatter.reformat(
                frame, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA, threads=1
            ).to_ndarray()
            for frame in map(_whole, _decode(stream, packets))
        ]
        return np.stack(pictures), float(stream.average_rate or 0)


@contextmanager
def _opened(video: bytes) -> Iterator[tuple[VideoStream, list[VideoPacket]]]:
    """The first video stream, which decodes in this thread alone, and all its packets."""
    try:
        known = DEMUXERS.get(video[4:8]) or DEMUXERS.get(video[:4])
        with av.open(io.BytesIO(video), "r", format=known, metadata_errors="ignore") as container:
            if not container.streams.video:
                raise UndecodableError("holds no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UndecodableError("is of a codec that FFmpeg does not know")
            stream.codec_context.thread_count = 1
            yield stream, _packets(container, stream)
    except av.FFmpegError as error:
        raise UndecodableError(f"does not decode: {error.strerror}") from error


def _packets(container: InputContainer, stream: VideoStream) -> list[VideoPacket]:
    """All compressed frames in the order they are decoded; cheap, nothing is decoded."""
    packets = [packet for packet in container.demux(stream) if packet.size]
    if not packets or any(packet.pts is None for packet in packets):
        raise UndecodableError("holds no frames with presentation times")
    return packets


def _time(packet: VideoPacket) -> int:
    assert packet.pts is not None
    return packet.pts


def _runs(packets: list[VideoPacket], wanted: Set[int]) -> list[list[VideoPacket]]:
    """Stretches of packets to decode: each from the key frame at or before a wanted frame up to that frame.

    Stretches that touch are joined; groups of pictures in which nothing is wanted are skipped.
    """
    keys = [position for position, packet in enumerate(packets) if packet.is_keyframe]
    stretches: list[range] = []
    for position, packet in enumerate(packets):
        time = _time(packet)
        if time not in wanted:
            continue
        key = max((k for k in keys if k <= position and _time(packets[k]) <= time), default=0)
        if stretches and key <= stretches[-1].stop:
            key = min(key, stretches.pop().start)
        stretches.append(range(key, position + 1))
    return [packets[stretch.start : stretch.stop] for stretch in stretches]


def _decode(stream: VideoStream, packets: list[VideoPacket], wanted: Set[int] | None = None) -> Iterator[VideoFrame]:
    """Frames of packets that begin with a key frame. Some may be damaged: those of an open group that lack its past.

    Frames at times that are not ``wanted`` are left out where no other frame is made from them.
    """
    decoder = stream.codec_context
    for packet in packets:
        decoder.skip_frame = "DEFAULT" if wanted is None or packet.pts in wanted else "NONREF"
        yield from decoder.decode(packet)
    yield from decoder.decode(None)
    decoder.flush_buffers()


def _whole(frame: VideoFrame) -> VideoFrame:
    """The frame, unless the decoder had to paint over damage."""
    if frame.is_corrupt:
        raise UndecodableError("holds a damaged frame")
    return frame
