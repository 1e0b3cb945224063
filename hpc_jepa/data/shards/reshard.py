"""Shards made of other shards: the same samples, or some of them, in tars of another size. Nothing is encoded anew."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hpc_jepa.config.strict import Strict
from hpc_jepa.data.shards.manifest import SampleInfo, read_manifest
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.source import PackedSample, Sample, SampleOrigin, SettingValue
from hpc_jepa.errors import InputError, UndecodableError


class SampleFilter(Strict):
    """Which samples to keep: those that pass every test that is set."""

    classes: tuple[str, ...] = ()
    codecs: tuple[str, ...] = ()
    shortest: int = 0
    keys: frozenset[str] = frozenset()

    def matches(self, key: str, info: SampleInfo) -> bool:
        """Whether a sample passes."""
        return (
            (not self.classes or info.class_name in self.classes)
            and (not self.codecs or info.codec in self.codecs)
            and info.frames >= self.shortest
            and (not self.keys or key in self.keys)
        )


@dataclass(frozen=True)
class ReshardSource:
    """Some samples of a shard folder, as a source; ``manifest_hash`` stands for all that is in the folder."""

    folder: Path
    samples: tuple[int, ...]
    dataset: str
    split: str
    classes: tuple[str, ...]
    manifest_hash: str
    kept: SampleFilter

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """Where the samples come from, and which they are."""
        kept = self.kept.model_dump() | {"keys": sorted(self.kept.keys)}
        return {"repacked": self.manifest_hash[:16], "kept": hashlib.sha256(repr(kept).encode()).hexdigest()[:16]}

    @cached_property
    def _shards(self) -> ShardFolder:
        return ShardFolder(self.folder)

    def __len__(self) -> int:
        return len(self.samples)

    def origin(self, index: int) -> SampleOrigin:
        """Keys stay."""
        sample = self.samples[index]
        return SampleOrigin(self._shards.key(sample), str(self._shards.tar(sample)))

    def load(self, index: int) -> Sample:
        """Description and video, as they are."""
        sample = self.samples[index]
        data, info = self._shards.read(sample)
        return Sample(PackedSample(info.to_json(), data, self._shards.extension(sample)))

    def __getstate__(self) -> dict[str, object]:
        """Workers open the folder themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "_shards"}


def reshard_source(folder: Path, kept: SampleFilter) -> ReshardSource:
    """The samples of ``folder`` that pass. Raises InputError when none does or a class is unknown."""
    manifest = read_manifest(folder)
    if unknown := [name for name in kept.classes if name not in manifest.classes]:
        raise InputError(f"--class {unknown[0]}: {folder} has no such class")
    shards = ShardFolder(folder)
    samples = tuple(index for index in range(len(shards)) if _passes(shards, index, kept))
    if not samples:
        raise InputError(f"{folder}: not one of {len(shards)} samples passes the filter")
    recipe = manifest.recipe
    return ReshardSource(folder, samples, recipe.dataset, recipe.split, manifest.classes, shards.hash, kept)


def _passes(shards: ShardFolder, index: int, kept: SampleFilter) -> bool:
    if kept == SampleFilter():
        return True
    try:
        return kept.matches(shards.key(index), shards.info(index))
    except UndecodableError:
        return True  # the builder writes it to the ledger
