"""The manifest of a shard folder. It is written last: a folder without one is incomplete."""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field

from hpc_jepa.config.strict import Strict
from hpc_jepa.data.encode import Encoding
from hpc_jepa.data.sources.source import SettingValue
from hpc_jepa.data.storage import read_file
from hpc_jepa.errors import DataError
from hpc_jepa.io.escape import shell_command
from hpc_jepa.io.validation import parse_json

MANIFEST_NAME = "manifest.json"
FORMAT = 1
IMAGE_CODECS = ("jpeg", "png")


class SampleInfo(Strict):
    """Metadata of a sample, stored as ``<key>.json`` before its video. Unknown fields are omitted."""

    frames: int = Field(gt=0)
    fps: float = Field(ge=0, description="average over the video; 0 for an image")
    width: int = Field(ge=0)
    height: int = Field(ge=0)
    codec: str = Field(description="as FFmpeg names it; jpeg or png for an image")
    label: int | None = None
    class_name: str | None = None
    text: str | None = Field(None, description="caption, or else the class name")
    template: str | None = Field(None, description="the caption with [something] for each placeholder")
    placeholders: tuple[str, ...] | None = None
    file: str | None = Field(None, description="original file, relative to the folder of videos")
    start: float | None = Field(None, description="seconds into the file at which a cut sample starts")
    end: float | None = None
    stored: str | None = Field(
        None, description="copied, stripped (other streams removed), remuxed (times mended), transcoded or encoded"
    )
    times: tuple[float, ...] | None = Field(
        None, description="seconds from the first frame to each, if the frame rate is variable"
    )

    colour: str | None = Field(
        None, description="colour matrix (bt709, ...) or full range, if other than BT.601 with limited range"
    )
    cluster: str | None = Field(
        None, min_length=1, description="source video or recording that the sample was cut from, with others"
    )
    targets: dict[str, float] | None = Field(None, description="numbers that probes can predict, by name")

    @property
    def is_image(self) -> bool:
        """Whether this is a still image, not a video of one frame."""
        return self.codec in IMAGE_CODECS

    @property
    def seconds(self) -> float:
        """Duration of the video; 0 for an image."""
        return self.frames / self.fps if self.fps else 0.0

    def to_json(self) -> bytes:
        """Serialise, without unknown fields."""
        return self.model_dump_json(exclude_none=True).encode()


Clusters = Literal["unknown", "known", "independent"]
"""What is known of the source videos of samples: nothing; each sample names its own; no two samples share one."""


class ShardFile(Strict):
    """One tar: number of samples, bytes, and checksum."""

    name: str = Field(pattern=r"^[^/\x00]*[^/\x00.]$", description="file name, without a folder")
    samples: int = Field(ge=0)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Recipe(Strict):
    """All settings that determine a shard folder: the same recipe and input give the same bytes."""

    dataset: str
    split: str
    settings: dict[str, SettingValue]
    encoding: Encoding
    samples_per_shard: int = Field(gt=0)
    shard_size: int | None = Field(None, gt=0, description="bytes at which a tar ends early")
    shuffle_seed: int | None = Field(None, ge=0, description="shuffles the samples; null: in the order of the source")
    mode: Literal["copy", "transcode"] = "copy"
    check: Literal["decode", "probe"] = "decode"


class ShardManifest(Strict):
    """Contents of a shard folder, the recipe, and the checksum of every tar."""

    format: int = Field(FORMAT, ge=FORMAT, le=FORMAT)
    recipe: Recipe
    classes: tuple[str, ...]
    samples: int = Field(ge=0)
    dropped: int = Field(ge=0, description="samples left out, listed in ledger.jsonl")
    shortest: int = Field(ge=0, description="frames of the shortest video")
    longest: int = Field(ge=0)
    shards: tuple[ShardFile, ...] = Field(min_length=1)
    software: dict[str, str]
    seconds: float = Field(0.0, description="total duration of all videos")
    codecs: dict[str, int] = Field({}, description="samples by codec")
    stored: dict[str, int] = Field({}, description="samples by how they were stored, with the reason")
    clusters: Clusters = Field(
        "unknown", description="known: every sample has a cluster", exclude_if=lambda value: value == "unknown"
    )
    shared_clusters: int = Field(
        0,
        ge=0,
        description="clusters that have samples in other splits too, built with --allow-shared-clusters",
        exclude_if=lambda value: not value,
    )

    @property
    def known_clusters(self) -> Clusters:
        """``clusters``; samples that a release without this field rendered are independent too."""
        rendered = {"first", "count"} <= self.recipe.settings.keys()
        return "independent" if self.clusters == "unknown" and rendered else self.clusters

    @property
    def size(self) -> int:
        """Bytes of all tars."""
        return sum(shard.size for shard in self.shards)


def read_manifest(folder: Path) -> ShardManifest:
    """Read the manifest of a shard folder. Raises DataError if it is missing or damaged."""
    path = folder / MANIFEST_NAME
    try:
        content = read_file(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        splits = [str(below.parent) for below in sorted(folder.glob(f"*/{MANIFEST_NAME}"))]
        if splits:
            raise DataError(f"{folder}: has a folder for each split; name one: {', '.join(splits)}") from error
        problem = f"not a shard folder, {MANIFEST_NAME} is missing" if folder.is_dir() else "no such folder"
        build = shell_command("hpc-jepa", "shards", "build", "DATASET", "--out", folder.parent)
        raise DataError(f"{folder}: {problem}; build it with: {build}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_json(ShardManifest, content, path, "build the shards again")


def manifest_hash(folder: Path) -> str:
    """Hash that identifies the data: the manifest contains the checksum of every tar."""
    return hashlib.sha256(read_file(folder / MANIFEST_NAME)).hexdigest()


def recipe_difference(old: Recipe, new: Recipe) -> str:
    """The settings in which two recipes differ, for an error message."""
    before, now = _flat(old), _flat(new)
    keys = [key for key in before | now if before.get(key) != now.get(key)]
    return ", ".join(f"{key} is {before.get(key)}, not {now.get(key)}" for key in keys)


def _flat(recipe: Recipe) -> dict[str, object]:
    flat: dict[str, object] = recipe.model_dump(exclude={"settings", "encoding"})
    return flat | recipe.settings | recipe.encoding.model_dump()
