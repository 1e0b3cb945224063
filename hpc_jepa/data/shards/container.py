"""What a video file says about itself, without decoding more than its first frame."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import NamedTuple

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from hpc_jepa.data.decode import VideoPacket
from hpc_jepa.errors import UndecodableError

MAX_FRAME_PIXELS = 1 << 26
"""Pixels; a damaged header may claim more, and memory for them."""


class ContainerInfo(NamedTuple):
    """What decides how a video file is stored. packets: compressed frames; rate: frames per second, on average."""

    container: str
    codec: str
    width: int
    height: int
    packets: int
    rate: Fraction
    pixel_format: str
    other_streams: int
    rotated: bool
    timed: bool


def probe_container(video: bytes) -> ContainerInfo:
    """Read headers and count packets. Raises UndecodableError when the bytes are no video."""
    with open_video(video) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]
        if not packets:
            raise UndecodableError("holds no frames")
        return ContainerInfo(
            container=container.format.name,
            codec=stream.codec_context.name,
            width=stream.width,
            height=stream.height,
            packets=len(packets),
            rate=stream.average_rate or Fraction(0),
            pixel_format=stream.pix_fmt or "unknown",
            other_streams=len(container.streams) - 1,
            rotated=_is_rotated(stream, packets[0]),
            timed=all(packet.pts is not None for packet in packets),
        )


@contextmanager
def open_video(video: bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first moving video stream, which decodes in this thread alone."""
    try:
        with av.open(io.BytesIO(video), "r", metadata_errors="ignore") as container:
            stream = _moving(container)
            if stream.codec_context is None:
                raise UndecodableError("holds video in a format that cannot be decoded")
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        raise UndecodableError(f"does not decode: {error.strerror}") from error
    except ZeroDivisionError as error:
        raise UndecodableError("claims a frame rate with denominator 0") from error


def _moving(container: InputContainer) -> VideoStream:
    """Cover pictures count as video streams too."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise UndecodableError("holds no video stream")


def _is_rotated(stream: VideoStream, packet: VideoPacket) -> bool:
    """Whether players turn the pictures: only decoded frames tell."""
    decoder = stream.codec_context
    frames = decoder.decode(packet) or decoder.decode(None)
    return any(frame.rotation for frame in frames)


def keyframe_indices(video: bytes) -> list[int]:
    """Numbers of the key frames, in order of presentation. Raises UndecodableError when the bytes are no video."""
    with open_video(video) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]
        shown = sorted(packets, key=lambda packet: packet.pts or 0)
        return [number for number, packet in enumerate(shown) if packet.is_keyframe]
