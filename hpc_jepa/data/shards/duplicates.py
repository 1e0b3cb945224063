"""Duplicate videos of a data set. Duplicates across splits are leakage: test results are then too good."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

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


class _Candidate(NamedTuple):
    """A sample by folder and index; ``fingerprint``: size and CRC-32."""

    fingerprint: tuple[int, int]
    folder: int
    row: int
    sample: SampleRef


def find_duplicates(folders: Sequence[Path]) -> list[Duplicate]:
    """Duplicates within and across the shard folders of a data set. Reads only videos of equal size and checksum."""
    shards = [ShardFolder(folder) for folder in folders]
    duplicates = []
    for _, group in groupby(sorted(_candidates(folders)), key=attrgetter("fingerprint")):
        candidates = list(group)
        if len(candidates) > 1:
            duplicates += list(_compare(shards, candidates))
    for folder in shards:
        folder.close()
    return duplicates


def _candidates(folders: Sequence[Path]) -> Iterator[_Candidate]:
    for number, folder in enumerate(folders):
        for row, checksum in enumerate(read_jsonl(folder / CONTENTS, VideoChecksum, "build the shards again")):
            sample = SampleRef(split=folder.name, key=checksum.key)
            yield _Candidate((checksum.size, checksum.crc32), number, row, sample)


def _compare(shards: Sequence[ShardFolder], candidates: list[_Candidate]) -> Iterator[Duplicate]:
    """The candidates that are byte-identical: an equal CRC-32 does not prove it."""
    samples: dict[bytes, list[SampleRef]] = {}
    for candidate in candidates:
        video = shards[candidate.folder].read(candidate.row).data
        samples.setdefault(video, []).append(candidate.sample)
    for equal in samples.values():
        if len(equal) > 1:
            yield Duplicate(samples=tuple(equal))
