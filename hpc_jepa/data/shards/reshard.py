"""Resharding: all or some samples of a shard folder in tars of another size; on request, wrong ones are mended."""

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
    """Selects the samples that meet all conditions that are set."""

    classes: tuple[str, ...] = ()
    codecs: tuple[str, ...] = ()
    shortest: int = 0
    keys: frozenset[str] = frozenset()

    def matches(self, key: str, info: SampleInfo) -> bool:
        """Whether a sample is selected."""
        return (
            (not self.classes or info.class_name in self.classes)
            and (not self.codecs or info.codec in self.codecs)
            and info.frames >= self.shortest
            and (not self.keys or key in self.keys)
        )


@dataclass(frozen=True)
class ReshardSource:
    """Some samples of a shard folder as a data source; ``manifest_hash`` identifies the folder's contents."""

    folder: Path
    samples: tuple[int, ...]
    dataset: str
    split: str
    classes: tuple[str, ...]
    manifest_hash: str
    selection: SampleFilter
    repair: bool = False
    independent: bool = False
    shared_clusters: int = 0

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """Hashes of the original manifest and of the selection."""
        selection = self.selection.model_dump() | {"keys": sorted(self.selection.keys)}
        if self.repair:
            selection["repair"] = True
        return {"repacked": self.manifest_hash[:16], "kept": hashlib.sha256(repr(selection).encode()).hexdigest()[:16]}

    @cached_property
    def _shards(self) -> ShardFolder:
        return ShardFolder(self.folder)

    def __len__(self) -> int:
        return len(self.samples)

    def origin(self, index: int) -> SampleOrigin:
        """The key is unchanged."""
        sample = self.samples[index]
        return SampleOrigin(self._shards.key(sample), str(self._shards.tar(sample)))

    def load(self, index: int) -> Sample:
        """Metadata and video, unchanged."""
        sample = self.samples[index]
        data, info = self._shards.read(sample)
        return Sample(PackedSample(info.to_json(), data, self._shards.extension(sample), self.repair))

    def __getstate__(self) -> dict[str, object]:
        """Omit the open folder: workers open it themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "_shards"}


def reshard_source(folder: Path, selection: SampleFilter, repair: bool = False) -> ReshardSource:
    """The selected samples of ``folder``, mended if ``repair`` is set.

    Raises InputError if none is selected or a class is unknown.
    """
    manifest = read_manifest(folder)
    if unknown := [name for name in selection.classes if name not in manifest.classes]:
        raise InputError(f"--class {unknown[0]}: {folder} has no such class")
    shards = ShardFolder(folder)
    samples = tuple(index for index in range(len(shards)) if _is_selected(shards, index, selection))
    if not samples:
        raise InputError(f"{folder}: the filter selects none of {len(shards)} samples")
    recipe = manifest.recipe
    return ReshardSource(
        folder, samples, recipe.dataset, recipe.split, manifest.classes, shards.hash, selection, repair,
        independent=manifest.known_clusters == "independent", shared_clusters=manifest.shared_clusters,
    )  # fmt: skip


def _is_selected(shards: ShardFolder, index: int, selection: SampleFilter) -> bool:
    if selection == SampleFilter():
        return True
    try:
        return selection.matches(shards.key(index), shards.info(index))
    except UndecodableError:
        return True  # the builder adds it to the ledger
