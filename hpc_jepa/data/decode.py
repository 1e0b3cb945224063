"""Frame-accurate video decoding with PyAV that decodes no more than the requested frames need."""

import io
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from hpc_jepa.data.colour import with_known_matrix
from hpc_jepa.data.images import decode_image, is_image
from hpc_jepa.errors import UndecodableError as UndecodableError

VideoPacket: TypeAlias = "Packet[VideoStream]"

DEMUXERS = {b"ftyp": "mp4", b"\x1aE\xdf\xa3": "matroska"}
"""FFmpeg demuxers by the first bytes of a file, so that FFmpeg need not guess."""


class CropWindow(NamedTuple):
    """Crop of the frames, and the size of the uncropped frames."""

    rows: slice
    columns: slice
    height: int
    width: int


class VideoInfo(NamedTuple):
    """Properties of a whole video. fps: average over the video; times: of the frames, if their rate is variable."""

    frames: int
    fps: float
    width: int
    height: int
    codec: str
    times: tuple[float, ...] | None = None


def decode_frames(
    video: bytes, indices: Sequence[int] | NDArray[np.int64], window: CropWindow | None = None
) -> NDArray[np.uint8]:
    """RGB frames [F, H, W, 3] at ``indices`` in presentation order; any order and repeats are allowed.

    An image is a video of one frame. With ``window`` each frame is cropped. Raises UndecodableError if the bytes are
    not a video, are damaged, have fewer frames, or have frames of another size than ``window`` states.
    """
    if is_image(video):
        return _repeat_image(decode_image(video), indices, window)
    with _opened(video) as (stream, packets):
        times = sorted(_time(packet) for packet in packets)
        if max(indices) >= len(times):
            raise UndecodableError(f"frame {max(indices)} requested, but the video has {len(times)} frames")
        height, width = stream.height, stream.width  # of the first frame; decoding a larger one would change them
        rows, columns = _crop_ranges(window, height, width)
        positions: dict[int, list[int]] = {}
        for position, index in enumerate(indices):
            positions.setdefault(times[index], []).append(position)
        frames = np.empty((len(indices), len(rows), len(columns), 3), dtype=np.uint8)
        reformatter = VideoReformatter()
        for time, frame in frames_at(stream, packets, positions.keys()):
            pixels = _rgb(frame, reformatter, height, width)
            for position in positions[time]:
                frames[position] = pixels[rows.start : rows.stop, columns.start : columns.stop]
        return frames


def _crop_ranges(window: CropWindow | None, height: int, width: int) -> tuple[range, range]:
    """Rows and columns of the crop, within frames of the given size."""
    if window is None:
        return range(height), range(width)
    if (window.height, window.width) != (height, width):
        raise UndecodableError(f"is {width}x{height}, but {window.width}x{window.height} in its metadata")
    return range(height)[window.rows], range(width)[window.columns]


def frames_at(stream: VideoStream, packets: list[VideoPacket], requested: Set[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Presentation time and intact frame for each requested time, once, from as few packets as possible."""
    missing = set(requested)
    for frame in chain.from_iterable(decode_run(stream, run, requested) for run in packet_runs(packets, requested)):
        # Leading frames of an open GOP come out again, without their references, when the next GOP is decoded.
        if frame.pts in missing:
            missing.remove(frame.pts)
            yield frame.pts, require_intact(frame)
    if missing:
        raise UndecodableError(f"only {len(requested) - len(missing)} of {len(requested)} requested frames decode")


def _rgb(frame: VideoFrame, reformatter: VideoReformatter, height: int, width: int) -> NDArray[np.uint8]:
    """A view [H, W, 3] of the converted frame; its row stride is larger than a row."""
    if (frame.height, frame.width) != (height, width):
        raise UndecodableError("changes its frame size midway")
    plane = reformatter.reformat(with_known_matrix(frame), format="rgb24", threads=1).planes[0]
    rows: NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)


def _repeat_image(
    image: NDArray[np.uint8], indices: Sequence[int] | NDArray[np.int64], window: CropWindow | None
) -> NDArray[np.uint8]:
    if max(indices) > 0:
        raise UndecodableError(f"frame {max(indices)} requested, but an image has one frame")
    rows, columns = _crop_ranges(window, *image.shape[:2])
    part = np.ascontiguousarray(image[rows.start : rows.stop, columns.start : columns.stop])
    return np.broadcast_to(part, (len(indices), *part.shape))


def count_frames(video: bytes) -> int:
    """Number of frames, without decoding. Raises UndecodableError if the bytes are not a video."""
    with _opened(video) as (_, packets):
        return len(packets)


def decode_scaled(video: bytes, short_side: int) -> tuple[NDArray[np.uint8], float]:
    """All RGB frames [F, H, W, 3] with the short side scaled to ``short_side`` and even sides; and frames per second.

    Area interpolation avoids aliasing. Raises UndecodableError if a frame is damaged.
    """
    with _opened(video) as (stream, packets):
        scale = short_side / min(stream.height, stream.width)
        height, width = (2 * round(side * scale / 2) for side in (stream.height, stream.width))
        reformatter = VideoReformatter()
        frames = [
            reformatter.reformat(
                frame, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA, threads=1
            ).to_ndarray()
            for frame in map(with_known_matrix, map(require_intact, decode_run(stream, packets)))
        ]
        return np.stack(frames), float(stream.average_rate or 0)


@contextmanager
def open_video(video: bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video stream, set to decode in the calling thread.

    Raises UndecodableError if the bytes are not a video, also for FFmpeg errors while the context is open.
    """
    demuxer = DEMUXERS.get(video[4:8]) or DEMUXERS.get(video[:4])
    try:
        with av.open(io.BytesIO(video), "r", format=demuxer, metadata_errors="ignore") as container:
            streams = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)  # no covers
            stream = next(streams, None)
            if stream is None:
                raise UndecodableError("has no video stream")
            if stream.codec_context is None:
                raise UndecodableError("has a codec that FFmpeg does not know")
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        raise UndecodableError(f"does not decode: {error.strerror}") from error
    except ZeroDivisionError as error:
        raise UndecodableError("has a frame rate with denominator 0") from error


@contextmanager
def _opened(video: bytes) -> Iterator[tuple[VideoStream, list[VideoPacket]]]:
    """The video stream and its packets in decoding order; nothing is decoded yet."""
    with open_video(video) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]
        if not packets or any(packet.pts is None for packet in packets):
            raise UndecodableError("has no frames with presentation times")
        yield stream, packets


def _time(packet: VideoPacket) -> int:
    assert packet.pts is not None
    return packet.pts


def packet_runs(packets: list[VideoPacket], requested: Set[int]) -> list[list[VideoPacket]]:
    """Runs of packets to decode: each from the key frame at or before a requested frame up to that frame.

    Adjacent runs are joined; groups of pictures without a requested frame are skipped.
    """
    keys = [position for position, packet in enumerate(packets) if packet.is_keyframe]
    runs: list[range] = []
    for position, packet in enumerate(packets):
        time = _time(packet)
        if time not in requested:
            continue
        key = max((k for k in keys if k <= position and _time(packets[k]) <= time), default=0)
        if runs and key <= runs[-1].stop:
            key = min(key, runs.pop().start)
        runs.append(range(key, position + 1))
    return [packets[run.start : run.stop] for run in runs]


def decode_run(
    stream: VideoStream, packets: list[VideoPacket], requested: Set[int] | None = None
) -> Iterator[VideoFrame]:
    """Frames of packets that start at a key frame. Leading frames of an open GOP may be corrupt.

    With ``requested``, the decoder skips other frames that no frame references.
    """
    decoder = stream.codec_context
    # libdav1d would skip for good whatever the first packet is decoded with.
    decode_all = requested is None or decoder.name == "libdav1d"
    for packet in packets:
        decoder.skip_frame = "DEFAULT" if decode_all or packet.pts in (requested or ()) else "NONREF"
        yield from decoder.decode(packet)
    yield from decoder.decode(None)
    decoder.flush_buffers()


def require_intact(frame: VideoFrame) -> VideoFrame:
    """The same frame. Raises UndecodableError if the decoder concealed errors in it."""
    if frame.is_corrupt:
        raise UndecodableError("has a damaged frame")
    return frame
