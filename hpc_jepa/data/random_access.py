"""Comparison of random access with sequential decoding."""

import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from hpc_jepa.data.decode import VideoPacket, decode_run, open_video, packet_runs
from hpc_jepa.data.track import Track, read_track
from hpc_jepa.errors import UndecodableError

ACCESS_LENGTH = 64
"""Frames to compare after a key frame over which decoders may keep frames: they keep at most 16, and few streams have
more than three B-frames per frame that is kept. After that a decoder is in the state of one that started earlier,
unless it keeps a frame by name (a long-term reference of H.264)."""

RESTART_LENGTH = 9
"""Frames to compare after a key frame over which decoders keep nothing."""

ACCESS_PERIOD, ACCESS_PHASES = 7, (0, 1, 3)
"""Frames to request out of each 7: they hit every kind of frame, whatever the distance of the frames of one kind."""


def access_fault(video: bytes, checksums: dict[int, int]) -> str | None:
    """Why frames would differ if decoding starts at a key frame and skips frames, in a few words; None if not.

    A reader may start at any key frame and skip any frames that no other refers to. All that come out are compared:
    a skipped frame depends on those only. The last group is the first for a new decoder: MPEG-4's keeps state
    of the first B-frame.
    """
    with open_video(video) as (container, stream):
        track = read_track(container, stream)
        try:
            for requested in reversed(list(_random_accesses(track))):
                runs = packet_runs(track.packets, requested)
                if not all(_is_same(stream, run, requested, checksums) for run in runs):
                    return "frames differ if decoding starts at their key frame"
        except UndecodableError:
            return "frames do not decode from their key frame"
    return None


def _random_accesses(track: Track) -> Iterator[set[int]]:
    """Times to request together: some of a group of pictures, and the leading frames of the next, which refer to it."""
    keys = track.key_positions()
    groups = [track.times[start:end] for start, end in pairwise([*keys, len(track.packets)])]
    for number, (key, group, following) in enumerate(zip(keys, groups, [*groups[1:], []], strict=True)):
        length = RESTART_LENGTH if track.restarts(key) else ACCESS_LENGTH
        frames = _without_leading(group[:length])
        some = {time for n, time in enumerate(frames, start=number) if n % ACCESS_PERIOD in ACCESS_PHASES}
        yield (some or set(frames)) | set(_leading(following))


def _leading(group: Sequence[int | None]) -> list[int]:
    """Times of the frames shown before the key frame with which the group starts."""
    times = [time for time in group if time is not None]
    return [time for time in times if time < times[0]]


def _without_leading(group: Sequence[int | None]) -> list[int]:
    times = [time for time in group if time is not None]
    return [time for time in times if time >= times[0]]


def _is_same(stream: VideoStream, run: list[VideoPacket], requested: set[int], checksums: dict[int, int]) -> bool:
    """Whether a run gives the frames of the sequential decode. Raises UndecodableError if a requested one is missing.

    Leading frames of the first key frame come out without their references, unless the run started earlier.
    """
    missing = {packet.pts for packet in run} & requested
    for frame in decode_run(stream, run, requested):
        if frame.pts in missing or (frame.pts or 0) >= (run[0].pts or 0):
            if frame.is_corrupt or frame_checksum(frame) != checksums.get(frame.pts or 0):
                return False
            missing.discard(frame.pts)
    if missing:
        raise UndecodableError(f"{len(missing)} frames are missing")
    return True


def frame_checksum(frame: VideoFrame) -> int:
    """CRC-32 of the decoded planes, without the padding of their rows."""
    depth = 2 if any(component.bits > 8 for component in frame.format.components) else 1
    checksum = 0
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, abs(plane.line_size))[: plane.height]
        checksum = zlib.crc32(np.ascontiguousarray(rows[:, : plane.width * depth]).data, checksum)
    return checksum
