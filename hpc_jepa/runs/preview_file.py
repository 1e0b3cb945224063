"""``preview.json``: the first clip of a run with its masks, which a report shows without opening any data."""

from pathlib import Path

from pydantic import Field

from hpc_jepa.config.strict import Strict
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.retry import read_if_exists
from hpc_jepa.io.validation import parse_json

MAX_IMAGE_CHARACTERS = 16 << 20


class PreviewStrip(Strict):
    """One row of frames as a PNG data URL, with a caption."""

    caption: str
    image: str = Field(pattern=r"^data:image/png;base64,[A-Za-z0-9+/]*={0,2}$", max_length=MAX_IMAGE_CHARACTERS)


class Preview(Strict):
    """The clip without masks, then with those of each mask group."""

    strips: tuple[PreviewStrip, ...]


def write_preview(path: Path, preview: Preview) -> None:
    """Replace the file. Raises HpcJepaError if it cannot be written."""
    write_atomically(path, preview.model_dump_json().encode())


def read_preview(path: Path) -> Preview | None:
    """The preview, None if there is no file. Raises DataError if it is damaged."""
    content = read_if_exists(path)
    return None if content is None else parse_json(Preview, content, path, "delete it")
