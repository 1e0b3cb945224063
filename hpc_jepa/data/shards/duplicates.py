"""Duplicate videos of a data set. Duplicates across splits are leakage: test results are then too good."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from hpc_jepa.config.strict import Strict
from hpc_jepa.data.shards.build_task import VideoChecksum
from hpc_jepa.data.shards.partial_build import CONTENTS
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.io.jsonl import read_jsonl


class SampleRef(Strict):
    """Split and key of a sample."""

    split: str
    key: str


class Duplicate(Strict):
    """Samples whose videos are byte-identical."""

    samples: tuple[SampleRef, ...]

    @property
    def leaks(self) -> bool:
        """Whether the samples are in different splits."""
        return len({sample.split for sample in self.samples}) > 1


def find_duplicates(folders: Sequence[Path]) -> list[Duplicate]:
    """Duplicates within and across the shard folders of a data set. Reads only videos of equal size and checksum."""
    shards = {folder.name: ShardFolder(folder) for folder in folders}
    candidates: dict[tuple[int, int], list[tuple[SampleRef, int]]] = {}
    for folder in folders:
        for index, checksum in enumerate(read_jsonl(folder / CONTENTS, VideoChecksum, "build the shards again")):
            sample = SampleRef(split=folder.name, key=checksum.key)
            candidates.setdefault((checksum.size, checksum.crc32), []).append((sample, index))
    duplicates = []
    for checksums in sorted(candidates):
        if len(candidates[checksums]) > 1:
            duplicates += list(_compare(shards, candidates[checksums]))
    for opened in shards.values():
        opened.close()
    return duplicates


def _compare(shards: Mapping[str, ShardFolder], candidates: list[tuple[SampleRef, int]]) -> Iterator[Duplicate]:
    """The candidates that are byte-identical: an equal CRC-32 does not prove it."""
    samples: dict[bytes, list[SampleRef]] = {}
    for sample, index in candidates:
        samples.setdefault(shards[sample.split].read(index).data, []).append(sample)
    for equal in samples.values():
        if len(equal) > 1:
            yield Duplicate(samples=tuple(equal))


def shared_videos(first: Path, second: Path) -> list[tuple[str, str]]:
    """Keys of the samples of two shard folders whose videos are byte-identical, by the key in ``second``.

    Reads only excerpts of videos of equal size, and videos of equal excerpts.
    """
    a, b = ShardFolder(first), ShardFolder(second)
    sizes_a, sizes_b = a.video_sizes, b.video_sizes
    common = np.intersect1d(sizes_a, sizes_b)
    excerpts: dict[tuple[int, bytes], int] = {}
    for index in np.flatnonzero(np.isin(sizes_a, common)).tolist():
        excerpts.setdefault((int(sizes_a[index]), a.excerpt(index)), index)
    shared = []
    for index in np.flatnonzero(np.isin(sizes_b, common)).tolist():
        other = excerpts.get((int(sizes_b[index]), b.excerpt(index)))
        if other is not None and a.read(other).data == b.read(index).data:
            shared.append((a.key(other), b.key(index)))
    return shared
