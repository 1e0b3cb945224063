"""Container and stream properties of a video file, from headers, packets and at most one decoded frame."""

from fractions import Fraction
from typing import NamedTuple

from av.video.stream import VideoStream

from hpc_jepa.data.decode import VideoPacket, open_video
from hpc_jepa.data.shards.frame_conversion import display_filters
from hpc_jepa.errors import UndecodableError

MAX_FRAME_PIXELS = 1 << 26
"""Larger frames come from damaged headers and would exhaust memory."""


class ContainerInfo(NamedTuple):
    """Properties that decide how a file is stored. packets: compressed frames; rate: average frames per second."""

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
    """Read headers and count packets. Raises UndecodableError if the bytes are not a video."""
    with open_video(video) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]
        if not packets:
            raise UndecodableError("has no frames")
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


def _is_rotated(stream: VideoStream, packet: VideoPacket) -> bool:
    """Whether players rotate or mirror the video, which only decoded frames show."""
    decoder = stream.codec_context
    frames = decoder.decode(packet) or decoder.decode(None)
    return any(display_filters(frame) for frame in frames)


def keyframe_indices(video: bytes) -> list[int]:
    """Indices of the key frames in presentation order. Raises UndecodableError if the bytes are not a video."""
    with open_video(video) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]
        ordered = sorted(packets, key=lambda packet: packet.pts or 0)
        return [index for index, packet in enumerate(ordered) if packet.is_keyframe]
