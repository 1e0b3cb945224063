"""Conversion of decoded frames for encoding: upright as players show them, scaled, and in the colours of shards.

The encoded frames have BT.601 colours with limited range, because DALI's decoders know no others.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import av.filter
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from hpc_jepa.data.colour import BT601, UNSPECIFIED, is_common_colour, with_known_matrix
from hpc_jepa.data.encode import Colour


class Filter(NamedTuple):
    """An FFmpeg filter and its arguments."""

    name: str
    arguments: str = ""


def display_filters(frame: VideoFrame) -> tuple[Filter, ...]:
    """Filters that turn and mirror a frame as its display matrix states; the rules of the ``ffmpeg`` command."""
    matrix = _display_matrix(frame)
    first, second = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    if not first or not second:
        return ()
    degrees = round(math.degrees(math.atan2(matrix[1] / second, matrix[0] / first))) % 360
    if degrees == 90:
        return (Filter("transpose", "cclock_flip" if matrix[3] > 0 else "clock"),)
    if degrees == 180:
        return (Filter("hflip"),) * (matrix[0] < 0) + (Filter("vflip"),) * (matrix[4] < 0)
    if degrees == 270:
        return (Filter("transpose", "clock_flip" if matrix[3] < 0 else "cclock"),)
    if degrees:
        return (Filter("rotate", f"{degrees}*PI/180"),)
    return (Filter("vflip"),) if matrix[4] < 0 else ()


def _display_matrix(frame: VideoFrame) -> list[float]:
    """Nine numbers; those of the identity without a display matrix."""
    try:
        side_data: Any = frame.side_data  # PyAV's stub knows motion vectors only
        if SideData.DISPLAYMATRIX in side_data:
            return list(map(float, np.frombuffer(side_data[SideData.DISPLAYMATRIX], np.int32)))
        angle = 0.0
    except ValueError:  # PyAV lists no side data if one is of a type that it does not know, such as Exif tags
        angle = math.radians(frame.rotation)
    return [math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle), 0, 0, 0, 1]


def colour_filters(frame: VideoFrame) -> tuple[Filter, ...]:
    """A filter from the frame's matrix and range to BT.601 with limited range, if it has others."""
    if is_common_colour(frame):
        return ()
    # Equal primaries and transfer functions on both sides: only the matrix and the range are converted.
    return (
        Filter(
            "colorspace",
            f"ispace={BT601[1] if frame.colorspace == UNSPECIFIED else frame.colorspace}:space={BT601[1]}:range=tv"
            ":iprimaries=bt709:itrc=bt709:primaries=bt709:trc=bt709:fast=1",
        ),
    )


def upright(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """The frames as players show them, in their own pixel format and with their colour tags."""
    return _filtered(map(with_known_matrix, frames), display_filters)


def _filtered(
    frames: Iterable[VideoFrame], filters_of: Callable[[VideoFrame], tuple[Filter, ...]]
) -> Iterator[VideoFrame]:
    """The frames after their filters. A filter graph is made for each run of equal frames that need one."""
    key: object = None
    graph = av.filter.Graph()
    for frame in frames:
        filters = filters_of(frame)
        if not filters:
            yield frame
            continue
        if key != (key := (filters, frame.width, frame.height, frame.format.name, colour_of(frame))):
            graph = _graph(frame, filters)
        graph.push(frame)
        filtered = graph.pull()
        assert isinstance(filtered, VideoFrame)
        yield filtered


def _graph(frame: VideoFrame, filters: tuple[Filter, ...]) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    last = graph.add(
        "buffer",
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000"
        f":colorspace={frame.colorspace}:range={frame.color_range}",
    )
    for name, arguments in [*filters, Filter("buffersink")]:
        step = graph.add(name, arguments)
        last.link_to(step)
        last = step
    graph.configure()
    return graph


def colour_of(frame: VideoFrame) -> Colour:
    """Colour tags of a frame."""
    return Colour(frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc)


def stored_colour(frame: VideoFrame) -> Colour:
    """Colour tags of the frames that ``convert`` makes of frames like this one."""
    colour = colour_of(frame)
    if is_common_colour(frame):
        return colour
    return colour._replace(range=ColorRange.MPEG, space=BT601[1])


def convert(frames: Iterable[VideoFrame], width: int, height: int, pixel_format: str) -> Iterator[VideoFrame]:
    """Scale upright frames and convert their colours."""
    return _filtered(_scaled(frames, width, height, pixel_format), colour_filters)


def _scaled(frames: Iterable[VideoFrame], width: int, height: int, pixel_format: str) -> Iterator[VideoFrame]:
    """Area interpolation avoids aliasing; a frame of the right size is unchanged. RGB becomes BT.601."""
    reformatter = VideoReformatter()
    for frame in frames:
        rgb = frame.format.is_rgb
        yield reformatter.reformat(
            _without_chroma_location(frame) if rgb else frame,
            width,
            height,
            pixel_format,
            dst_colorspace=Colorspace.ITU601 if rgb else None,
            dst_color_range=ColorRange.MPEG if rgb else None,
            interpolation=Interpolation.AREA,
            threads=1,
        )


def _without_chroma_location(frame: VideoFrame) -> VideoFrame:
    """An RGB frame as 8-bit RGB. Decoders give it a chroma location, which would shift the chroma."""
    return VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")
