"""Videos that are in a data set more than once: where one of them is in train and the other in test, results lie."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from hpc_jepa.config.strict import Strict
from hpc_jepa.data.shards.build_task import VideoChecksum
from hpc_jepa.data.shards.partial_build import CONTENTS
from hpc_jepa.data.shards.shard_folder import ShardFolder


class SampleRef(Strict):
    """A sample: split and key."""

    split: str
    key: str


class Duplicate(Strict):
    """Samples whose videos are the same, byte for byte."""

    samples: tuple[SampleRef, ...]

    @property
    def leaks(self) -> bool:
        """Whether the samples are in different splits."""
        return len({place.split for place in self.samples}) > 1


class _Candidate(NamedTuple):
    """A sample as its folder counts it; ``mark``: size and checksum."""

    mark: tuple[int, int]
    folder: int
    row: int
    place: SampleRef


def find_duplicates(folders: Sequence[Path]) -> list[Duplicate]:
    """Duplicates within and across shard folders of one data set. Reads only videos of equal size and checksum."""
    shards = [ShardFolder(folder) for folder in folders]
    candidates = sorted(_candidates(folders))
    found = []
    for _, group in groupby(candidates, key=attrgetter("mark")):
        alike = list(group)
        if len(alike) > 1:
            found += list(_equal(shards, alike))
    for folder in shards:
        folder.close()
    return found


def _candidates(folders: Sequence[Path]) -> Iterator[_Candidate]:
    for number, folder in enumerate(folders):
        lines = (folder / CONTENTS).read_text(encoding="utf-8").splitlines()
        for row, content in enumerate(map(VideoChecksum.model_validate_json, lines)):
            yield _Candidate((content.size, content.crc32), number, row, SampleRef(split=folder.name, key=content.key))


def _equal(shards: Sequence[ShardFolder], alike: list[_Candidate]) -> Iterator[Duplicate]:
    """Those of ``alike`` that are the same indeed; a checksum of 32 bits does not prove it."""
    by_video: dict[bytes, list[SampleRef]] = {}
    for candidate in alike:
        video = shards[candidate.folder].read(candidate.row).data
        by_video.setdefault(video, []).append(candidate.place)
    for places in by_video.values():
        if len(places) > 1:
            yield Duplicate(samples=tuple(places))
