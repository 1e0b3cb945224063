"""The one rule by which decoded frames become RGB: the colour matrix and range of their tags.

Without tags, or with a matrix that FFmpeg does not convert, the matrix is BT.601; without a range, the range is
limited. The size of a video does not matter. This is the rule of the ``ffmpeg`` command. Transfer functions and
primaries are not converted.

DALI 2.4 converts by BT.601 whatever the matrix; its GPU decoder takes the full-range form of it if the bitstream says
so (dali/operators/video: frames_decoder_gpu.cc, color_space.cu). It clips the result to 0 to 255, so the RGB of another
matrix cannot be restored afterwards, and its in-memory decoder has no YCbCr output. So it decodes BT.601 with limited
range only, and PyAV the rest.
"""

from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

UNSPECIFIED = 2
BT601 = (5, 6)
CONVERTED = (1, 2, 4, 5, 6, 7, 9)
"""Colour matrices by FFmpeg's numbers: not stated; the two names of BT.601; all that FFmpeg converts to RGB."""

SAME_MATRIX = {10: 9}
"""BT.2020 with constant luminance is converted like BT.2020 without."""

NAMES = {1: "bt709", 4: "fcc", 7: "smpte240m", 9: "bt2020nc"}
FULL_RANGE = "full range"


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


def uncommon_colour(frame: VideoFrame) -> str | None:
    """The frame's matrix, or FULL_RANGE, if not every decoder converts the frame to RGB alike; else None."""
    if is_common_colour(with_known_matrix(frame)):
        return None
    return FULL_RANGE if is_full_range(frame) else NAMES.get(frame.colorspace)
