"""Container and stream properties of a video file, from headers, packets and at most one decoded frame."""

from fractions import Fraction
from typing import NamedTuple

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from hpc_jepa.data.colour import uncommon_colour
from hpc_jepa.data.decode import open_video
from hpc_jepa.data.shards.frame_conversion import display_filters
from hpc_jepa.data.track import Track, read_track, variable_times

MAX_FRAME_PIXELS = 1 << 26
"""Larger frames come from damaged headers and would exhaust memory."""


class ContainerInfo(NamedTuple):
    """Properties that decide how a file is stored.

    packets: compressed frames; rate: average frames per second; times: see ``VideoInfo``; in_order: whether the
    container, without decoding, proves that its times are the order of presentation and that all frames have one size;
    colour: of the first frame, if DALI's decoders would not convert it right.
    """

    container: str
    codec: str
    width: int
    height: int
    packets: int
    rate: Fraction
    times: tuple[float, ...] | None
    pixel_format: str
    other_streams: int
    rotated: bool
    in_order: bool
    colour: str | None


def probe_container(video: bytes) -> ContainerInfo:
    """Read headers and count packets. Raises UndecodableError if the bytes are not a video."""
    with open_video(video) as (container, stream):
        track = read_track(container, stream)
        width, height, times = stream.width, stream.height, track.shown_times()
        first, last_key = _decoded(stream, track, 0), max(track.key_positions(), default=0)
        last = _decoded(stream, track, last_key) if last_key else first
        return ContainerInfo(
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            packets=len(track.packets),
            rate=track.rate(times, stream),
            times=variable_times(times, track.tick),
            pixel_format=stream.pix_fmt or "unknown",
            other_streams=len(container.streams) - 1,
            rotated=any(display_filters(frame) for frame in first),
            in_order=track.reliable
            and track.key_positions()[:1] == [0]
            and len(times) == len(track.packets)
            and track.has_one_size()
            and not track.ends_with_open_group()
            and [(frame.width, frame.height) for frame in first + last] == 2 * [(width, height)],
            colour=next(map(uncommon_colour, first), None),
        )


def _decoded(stream: VideoStream, track: Track, position: int) -> list[VideoFrame]:
    """The frame of a packet, which shows rotation and size; none if it does not decode alone."""
    decoder = stream.codec_context
    frames = decoder.decode(track.packets[position]) or decoder.decode(None)
    decoder.flush_buffers()
    return frames


def keyframe_indices(video: bytes) -> list[int]:
    """Indices of the key frames in presentation order. Raises UndecodableError if the bytes are not a video."""
    with open_video(video) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]
        ordered = sorted(packets, key=lambda packet: packet.pts or 0)
        return [index for index, packet in enumerate(ordered) if packet.is_keyframe]
