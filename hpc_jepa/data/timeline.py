"""Presentation order and times of a video: the one place that decides what frame i of a file is.

Containers may lie: AVI has no presentation times, remuxed files repeat its guesses, edit lists hide frames. The order
in which a decoder returns all frames is the truth; the n-th frame has the n-th smallest time of the packets shown.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from av.container import InputContainer

from hpc_jepa.data.decode import VideoInfo, open_video
from hpc_jepa.data.images import is_image, open_image
from hpc_jepa.data.random_access import access_fault, frame_checksum
from hpc_jepa.data.track import Track, decode_track, read_track, variable_times
from hpc_jepa.errors import UndecodableError


class Timeline(NamedTuple):
    """All frames of a video in presentation order.

    order: position in decoding order of each frame's packet; times: of each frame, in ticks; fault: why readers that
    access frames at random would not get these frames in this order, or None.
    """

    info: VideoInfo
    order: list[int]
    times: list[int]
    tick: Fraction
    checksums: list[int]
    fault: str | None


def inspect_video(video: bytes) -> VideoInfo:
    """Properties of a video of which every frame is intact and found at random as in a sequential decode.

    Raises UndecodableError otherwise.
    """
    if is_image(video):
        with open_image(video) as image:
            image.load()
            return VideoInfo(1, 0.0, image.width, image.height, str(image.format).lower())
    timeline = establish(video)
    if timeline.fault:
        raise UndecodableError(f"cannot be read at random: {timeline.fault}")
    return timeline.info


def establish(video: bytes) -> Timeline:
    """Decode a video from its first packet to its last. Raises UndecodableError if a frame is missing or damaged."""
    with open_video(video) as (container, stream):
        track = read_track(container, stream)
        stated_size = stream.width, stream.height
        order, checksums, sizes = [], [], []
        for position, frame in decode_track(stream, track):
            order.append(position)
            checksums.append(frame_checksum(frame))
            sizes.append((frame.width, frame.height))
        times = _frame_times(track, order)
        rate = float(track.rate(times, stream))
        info = VideoInfo(
            len(order), rate, *sizes[0], stream.codec_context.codec.canonical_name, variable_times(times, track.tick)
        )
        fault = _fault(track, order, container)
        if not fault and len(set(sizes)) > 1:
            fault = "frame size changes"
        if not fault and sizes[0] != stated_size:
            fault = "frames of another size than the header states"
    if not fault:
        fault = access_fault(video, dict(zip(times, checksums, strict=True)))
    return Timeline(info, order, times, track.tick, checksums, fault)


def _frame_times(track: Track, order: Sequence[int]) -> list[int]:
    """Time of each frame, in ticks; equally spaced if the container states none or the same twice."""
    stated = sorted(time for time in map(track.times.__getitem__, order) if time is not None)
    return stated if len(stated) == len(order) else list(range(len(order)))


def _fault(track: Track, order: Sequence[int], container: InputContainer) -> str | None:
    """Why the stated times do not lead to the frames, in a few words."""
    times = [track.times[position] for position in order]
    known = [time for time in times if time is not None]
    rules = {
        "packed B-frames": track.packed,
        "edit list": any(packet.is_discard for packet in track.packets),
        "no presentation times": len(known) < len(times),
        "frames without picture": len(order) < len(track.packets),
        "B-frames in AVI": "avi" in container.format.name and list(order) != sorted(order),
        "equal presentation times": len(set(known)) < len(known),
        "presentation times out of order": any(a >= b for a, b in pairwise(known)),
        "open group at the end": track.ends_with_open_group(),
        "no key frame at the start": not track.packets[0].is_keyframe,
    }
    return next((fault for fault, applies in rules.items() if applies), None)
