"""The one rule by which decoded frames become RGB: the colour matrix and range of their tags.

Without tags, or with a matrix that FFmpeg does not convert, the matrix is BT.601; without a range, the range is
limited. The size of a video does not matter. This is the rule of the ``ffmpeg`` command. Transfer functions and
primaries are not converted.
"""

from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

UNSPECIFIED = 2
BT601 = (5, 6)
CONVERTED = (1, 2, 4, 5, 6, 7, 9)
"""Colour matrices by FFmpeg's numbers: not stated; the two names of BT.601; all that FFmpeg converts to RGB."""

SAME_MATRIX = {10: 9}
"""BT.2020 with constant luminance is converted like BT.2020 without."""


def with_known_matrix(frame: VideoFrame) -> VideoFrame:
    """The same frame; a matrix that FFmpeg does not convert is replaced by the one it uses instead."""
    if frame.colorspace not in CONVERTED and not frame.format.is_rgb:
        frame.colorspace = SAME_MATRIX.get(frame.colorspace, UNSPECIFIED)
    return frame


def is_full_range(frame: VideoFrame) -> bool:
    """Whether black is 0 and white 255, not 16 and 235."""
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")


def is_common_colour(frame: VideoFrame) -> bool:
    """Whether every decoder converts the frame to RGB alike, DALI's too, which know BT.601 with limited range only."""
    return frame.colorspace in (UNSPECIFIED, *BT601) and not frame.format.is_rgb and not is_full_range(frame)
