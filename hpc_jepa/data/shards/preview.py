"""A contact sheet of a shard folder."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.shards.container import keyframe_indices
from hpc_jepa.data.shards.manifest import SampleInfo
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.errors import DataError, UndecodableError
from hpc_jepa.io.escape import shell_command

CAPTION = 14
TIMELINE = 8
GAP = 2
KEY_FRAME, OTHER_FRAME = "crimson", "lightgray"


def contact_sheet(shards: ShardFolder, picks: Sequence[int], frames: int, height: int = 96) -> Image.Image:
    """One row per sample: name and label, ``frames`` evenly spaced frames, and a timeline that marks the key frames.

    ``height``: thumbnail height in pixels. Raises DataError with the key of a damaged sample.
    """
    return _stack([_row(shards, index, frames, height) for index in picks])


def _row(shards: ShardFolder, index: int, frames: int, height: int) -> Image.Image:
    try:
        video, info = shards.read(index)
        thumbnails = decode_frames(video, np.linspace(0, info.frames - 1, frames).astype(np.int64))
        keys = [0] if info.is_image else keyframe_indices(video)
    except UndecodableError as error:
        remedy = f"run: {shell_command('hpc-jepa', 'shards', 'verify', shards.path)}"
        raise DataError(f"{shards.tar(index)}: {shards.key(index)}: {error}; {remedy}") from error
    width = round(info.width * height / info.height)
    row = Image.new("RGB", (frames * (width + GAP), CAPTION + height + TIMELINE + GAP), "white")
    ImageDraw.Draw(row).text((0, 0), _caption(shards.key(index), info), fill="black")
    for column, thumbnail in enumerate(thumbnails):
        row.paste(Image.fromarray(thumbnail).resize((width, height)), (column * (width + GAP), CAPTION))
    row.paste(_timeline(info.frames, keys, row.width - GAP), (0, CAPTION + height + GAP))
    return row


def _caption(key: str, info: SampleInfo) -> str:
    label = "" if info.label is None else f"  label {info.label} {info.text or ''}"
    rate = "" if info.is_image else f"{info.frames} frames  {info.fps:.4g} fps  "
    return f"{key}{label}  {rate}{info.width}x{info.height}  {info.codec}"


def _timeline(frames: int, keys: Sequence[int], width: int) -> Image.Image:
    """A line from the first to the last frame with a mark at each key frame."""
    line = Image.new("RGB", (width, TIMELINE - GAP), OTHER_FRAME)
    draw = ImageDraw.Draw(line)
    for key in keys:
        left = key * width // frames
        draw.rectangle((left, 0, left + 1, TIMELINE), fill=KEY_FRAME)
    return line


def _stack(rows: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet
