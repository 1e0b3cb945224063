"""The video track of a file: its packets in decoding order, their times, and their frames."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from heapq import heappop, heappush
from itertools import accumulate, pairwise
from statistics import median_low
from typing import NamedTuple

from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from hpc_jepa.data.decode import VideoPacket, require_intact
from hpc_jepa.data.frame_headers import is_skipped_leading, one_size, restarts
from hpc_jepa.errors import UndecodableError

MAX_FPS = 1000
DEFAULT_FPS = Fraction(25)
"""Assumed frames per second if neither the times nor the header give a rate up to MAX_FPS."""

RATE_TOLERANCE = 0.02
"""Relative difference between the header's rate and the frame times up to which the header is right."""

EMPTY_VOP = 8
"""An MPEG-4 packet of at most this many bytes holds no frame: it fills the place of a packed or dropped one."""

PACKED_FLAG = re.compile(rb"(DivX\d+(?:b|Build)\d+)p")
"""Encoder's note that frames are packed."""


class Track(NamedTuple):
    """Packets of a video stream in decoding order, one frame each.

    times: presentation time of each packet as the container states it, in ticks of ``tick`` seconds, or None; packed:
    whether frames had to be unpacked; reliable: whether the stated times can be the order of presentation.
    """

    packets: list[VideoPacket]
    times: list[int | None]
    tick: Fraction
    packed: bool
    reliable: bool
    seekable: bool

    def is_shown(self, position: int) -> bool:
        """Whether a packet is meant to give a frame; edit lists, dropped frames and references give none."""
        packet = self.packets[position]
        codec = packet.stream.codec_context.name
        if packet.is_discard or (codec == "mpeg4" and packet.size <= EMPTY_VOP):
            return False
        return codec != "vp8" or bool(bytes(memoryview(packet)[:1])[0] >> 4 & 1)

    def key_positions(self) -> list[int]:
        """Positions of the key frames."""
        return [position for position, packet in enumerate(self.packets) if packet.is_keyframe]

    def restarts(self, position: int) -> bool:
        """Whether decoders keep nothing over the key frame at a position."""
        packet = self.packets[position]
        decoder = packet.stream.codec_context
        return restarts(decoder.codec.canonical_name, bytes(packet), decoder.extradata or b"")

    def needs_earlier_group(self, position: int) -> bool:
        """Whether a decoder that starts at the key frame before this frame drops it, as the standard requires."""
        packet = self.packets[position]
        decoder = packet.stream.codec_context
        return is_skipped_leading(decoder.codec.canonical_name, bytes(packet), decoder.extradata or b"")

    def ends_with_open_group(self) -> bool:
        """Whether the last key frame of an H.264 stream with reordered references keeps frames before it.

        FFmpeg 5.1, and torchcodec with it, loses the last frame if decoding starts there.
        """
        decoder = self.packets[0].stream.codec_context
        keys = self.key_positions()
        is_open = decoder.codec.canonical_name == "h264" and bool(keys) and not self.restarts(keys[-1])
        return is_open and decoder.reorder_depth > 1

    def has_one_size(self) -> bool:
        """Whether the headers of all frames state one size."""
        decoder = self.packets[0].stream.codec_context
        packets = ((bytes(packet), packet.is_keyframe) for packet in self.packets)
        return not any(packet.has_sidedata("new_extradata") for packet in self.packets) and one_size(
            decoder.codec.canonical_name, packets, decoder.extradata or b""
        )

    def shown_times(self) -> list[int]:
        """Times of all packets that give a frame, in presentation order; empty if the container states none."""
        times = [time for position, time in enumerate(self.times) if self.is_shown(position)]
        return [] if None in times else sorted(time for time in times if time is not None)

    def rate(self, times: Sequence[int], stream: VideoStream) -> Fraction:
        """Frames per second: the header's, unless the presentation ``times`` contradict it."""
        header = stream.average_rate or stream.guessed_rate
        stated = header if header and 0 < header <= MAX_FPS else None
        steps, span = len(times) - 1, times[-1] - times[0] if times else 0
        decoding_times = [packet.dts for packet in self.packets if packet.dts is not None]
        if not self.reliable and len(decoding_times) > 1:
            span = max(span, steps * median_low(b - a for a, b in pairwise(decoding_times)))
        if steps < 1 or span <= 0:
            return stated or DEFAULT_FPS
        seconds = span * self.tick
        if stated and abs(stated * seconds - steps) <= steps * RATE_TOLERANCE + stated * self.tick:
            return stated
        return steps / seconds if steps / seconds <= MAX_FPS else DEFAULT_FPS


def variable_times(times: Sequence[int], tick: Fraction) -> tuple[float, ...] | None:
    """Seconds from the first frame to each, or None if no time is more than a frame away from a constant rate."""
    offsets = [time - times[0] for time in times]
    steps = len(offsets) - 1
    if steps < 2 or all(
        abs(offset * steps - number * offsets[-1]) <= offsets[-1] for number, offset in enumerate(offsets)
    ):
        return None
    return tuple(round(float(offset * tick), 4) for offset in offsets)


def read_track(container: InputContainer, stream: VideoStream) -> Track:
    """Demux the video stream. Raises UndecodableError if it has no frames."""
    demuxed = [packet for packet in container.demux(stream) if packet.size]
    if not demuxed:
        raise UndecodableError("has no frames")
    sizes = [packet.size for packet in demuxed]
    packets = _unpack(stream, demuxed) if stream.codec_context.name == "mpeg4" else demuxed
    packed = [packet.size for packet in packets] != sizes
    times = [packet.dts if packet.pts is None else packet.pts for packet in packets]
    depth = stream.codec_context.reorder_depth
    reliable = (
        all(packet.pts is not None for packet in packets)
        and len(set(times)) == len(times)
        and not (packed or (depth and "avi" in container.format.name))
        and _times_fit(packets, depth)
    )
    seekable = reliable and any(name in container.format.name for name in ("mp4", "matroska"))
    return Track(packets, times, stream.time_base or Fraction(1), packed, reliable, seekable)


def _times_fit(packets: Sequence[VideoPacket], depth: int) -> bool:
    """Whether a decoder that reorders over ``depth`` frames returns them in the order of their stated times.

    False also for times in decoding order if the decoder reorders: they are copies of the decoding times.
    """
    times = [packet.pts or 0 for packet in packets]
    latest = list(accumulate(times, max))
    if any(packet.is_keyframe and time < past for packet, time, past in zip(packets, times, latest, strict=True)):
        return False
    waiting: list[int] = []
    shown: list[int] = []
    for time in times:
        heappush(waiting, time)
        if len(waiting) > depth:
            shown.append(heappop(waiting))
    shown += sorted(waiting)
    return shown == sorted(times) and not (depth and len(times) > depth and shown == times)


def _unpack(stream: VideoStream, packets: list[VideoPacket]) -> list[VideoPacket]:
    """One frame per packet: MPEG-4 in AVI may pack a B-frame into the packet of the frame it refers to."""
    if not any(PACKED_FLAG.search(data) for data in (stream.codec_context.extradata or b"", bytes(packets[0]))):
        return packets
    unpacker = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    unpacked = [out for packet in [*packets, None] for out in unpacker.filter(packet)]
    for packet in unpacked:
        packet.stream = stream
    return [packet for packet in unpacked if packet.size]


def decode_track(stream: VideoStream, track: Track, first: int = 0) -> Iterator[tuple[int, VideoFrame]]:
    """Packet position and frame, in presentation order, from packet ``first`` on.

    Raises UndecodableError if a frame is damaged or, after the last one, if some are missing.
    """
    decoder = stream.codec_context
    stated = [packet.pts for packet in track.packets]
    found: dict[int, tuple[int, int]] = {}
    try:
        for position, packet in enumerate([*track.packets[first:], None], start=first):
            if packet is not None:
                packet.pts = position  # decoders copy it to the frame: the position of its packet
            for frame in decoder.decode(packet):
                assert frame.pts is not None
                found[frame.pts] = frame.width, frame.height
                yield frame.pts, require_intact(frame)
    finally:
        for packet, pts in zip(track.packets, stated, strict=True):
            packet.pts = pts
    decoder.flush_buffers()
    if not first:
        _require_complete(track, found)


def _require_complete(track: Track, found: dict[int, tuple[int, int]]) -> None:
    """Raise UndecodableError if a frame is missing, unless it is decoded or shown before the first key frame.

    ``found``: sizes of the frames by position.
    """
    key, second, *_ = [*track.key_positions(), len(track.packets), len(track.packets)]
    key = key if key < len(track.packets) else 0
    start = track.times[key]

    def is_expected(position: int) -> bool:
        if position < key or not track.is_shown(position):
            return False
        if position < second and track.needs_earlier_group(position):
            return False
        time = track.times[position]
        if position < second and start is not None and time is None:
            return False  # Matroska states no time before 0: a leading frame of an open group that was cut there
        return time is None or start is None or time >= start

    lost = [position for position in range(len(track.packets)) if position not in found and is_expected(position)]
    if lost or not found:
        change = ", frames are lost where their size changes" if len(set(found.values())) > 1 else ""
        raise UndecodableError(f"only {len(found)} of {len(found) + len(lost)} frames decode{change}")


def frames_between(
    stream: VideoStream, track: Track, start: float | None, end: float | None, seek: bool = True
) -> tuple[list[int], Iterator[VideoFrame]]:
    """Times in ticks, and frames, with ``start`` <= time < ``end``: seconds after the first frame.

    With ``seek`` decoding starts at the key frame before ``start`` if the container is one that can be trusted, else at
    the first packet. Raises UndecodableError if a cut is requested and the frames have no times, or some are missing.
    """
    times = track.shown_times()
    if start is None and end is None:
        return times, (frame for _, frame in decode_track(stream, track))
    if not times:
        raise UndecodableError("cannot be cut, its frames have no presentation times")
    first = times[0] + Fraction(start or 0).limit_denominator(10**6) / track.tick
    last = None if end is None else times[0] + Fraction(end).limit_denominator(10**6) / track.tick
    selected = [time for time in times if first <= time and (last is None or time < last)]
    return selected, _cut(stream, track, times, selected, seek)


def _cut(stream: VideoStream, track: Track, times: list[int], selected: list[int], seek: bool) -> Iterator[VideoFrame]:
    if not selected:
        return
    key, first, last = 0, selected[0], selected[-1]
    found: list[int] = []
    if seek and track.seekable:
        key = max((k for k in track.key_positions() if (track.times[k] or 0) <= first), default=0)
    for number, (position, frame) in enumerate(decode_track(stream, track, key)):
        time = track.times[position] if track.reliable else times[min(number, len(times) - 1)]
        assert time is not None
        if time > last:
            break
        if time >= first:
            found.append(time)
            yield frame
    expected = sum(time >= found[0] for time in selected) if found and not key else len(selected)
    if len(found) < expected:
        raise UndecodableError(f"only {len(found)} of {expected} frames decode")
