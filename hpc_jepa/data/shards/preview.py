"""A contact sheet: what is inside a shard folder, at a glance."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.shards.folder import ShardFolder

CAPTION = 14
GAP = 2


def contact_sheet(folder: Path, samples: int, frames: int, height: int = 96) -> Image.Image:
    """One row per sample, evenly spread over the folder: ``frames`` frames, evenly spread over the video, and its name.

    ``height``: pixels of a thumbnail. Raises DataError for a damaged folder, UndecodableError for a damaged sample.
    """
    shards = ShardFolder(folder)
    picks = np.linspace(0, len(shards) - 1, min(samples, len(shards))).astype(int)
    return _stacked([_row(shards, int(index), frames, height) for index in picks])


def _row(shards: ShardFolder, index: int, frames: int, height: int) -> Image.Image:
    video, info = shards.read(index)
    pictures = decode_frames(video, np.linspace(0, info.frames - 1, frames).astype(np.int64))
    width = round(info.width * height / info.height)
    row = Image.new("RGB", (frames * (width + GAP), CAPTION + height + GAP), "white")
    what = "" if info.label is None else f"  label {info.label} {info.text or ''}"
    facts = f"{info.frames} frames  {info.fps:g} fps  {info.width}x{info.height}  {info.codec}"
    ImageDraw.Draw(row).text((0, 0), f"{shards.key(index)}{what}  {facts}", fill="black")
    for column, picture in enumerate(pictures):
        row.paste(Image.fromarray(picture).resize((width, height)), (column * (width + GAP), CAPTION))
    return row


def _stacked(rows: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet
