"""The manifest of a shard folder. It is written last: a folder without one is not a shard folder."""

import hashlib
from pathlib import Path

from pydantic import Field, ValidationError

from hpc_jepa.config.strict import Strict
from hpc_jepa.data.encode import Encoding
from hpc_jepa.data.sources.source import Setting
from hpc_jepa.errors import DataError

NAME = "manifest.json"
FORMAT = 1


class SampleInfo(Strict):
    """The ``<key>.json`` beside each video: what a reader needs before decoding it."""

    frames: int = Field(gt=0)
    fps: float
    width: int
    height: int
    codec: str
    label: int | None = None
    text: str | None = None


class ShardFile(Strict):
    """One tar: samples inside, bytes, and checksum."""

    name: str
    samples: int
    size: int
    sha256: str


class Recipe(Strict):
    """What the content of a shard folder is a function of: equal recipes give equal bytes."""

    dataset: str
    split: str
    settings: dict[str, Setting]
    encoding: Encoding
    samples_per_shard: int


class Manifest(Strict):
    """What a shard folder holds, how it was made, and the checksums of it."""

    format: int = Field(FORMAT, ge=FORMAT, le=FORMAT)
    recipe: Recipe
    classes: tuple[str, ...]
    samples: int
    dropped: int = Field(description="samples left out; the ledger says which and why")
    shortest: int = Field(description="frames of the shortest video")
    longest: int
    shards: tuple[ShardFile, ...] = Field(min_length=1)
    software: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of all tars."""
        return sum(shard.size for shard in self.shards)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a shard folder. Raises DataError where there is none or it is damaged."""
    path = folder / NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        found = f"not a shard folder, {NAME} is missing" if folder.is_dir() else "no such folder"
        raise DataError(
            f"{folder}: {found}; build it with: hpc-jepa shards build DATASET --out {folder.parent}"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"]) or "file"
        raise DataError(f"{path}: damaged manifest ({place}: {fault['msg']}); build the shards again") from error


def manifest_hash(folder: Path) -> str:
    """Identity of the data: the manifest holds the checksum of every tar."""
    return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()
