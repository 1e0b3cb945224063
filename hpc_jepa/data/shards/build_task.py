"""The unit of work of a build: a range of samples becomes one tar, or several where they do not fit into one.

What it writes is a function of the source, the recipe and its samples alone.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from hpc_jepa.config.strict import Strict
from hpc_jepa.data.shards.manifest import Recipe, ShardFile
from hpc_jepa.data.shards.storage_policy import TarEntry, to_tar_entry
from hpc_jepa.data.shards.tar_writer import ShardWriter
from hpc_jepa.data.sources.source import DataSource
from hpc_jepa.errors import UndecodableError


class BuildTask(NamedTuple):
    """``samples`` of a source, in the order they are stored; ``fatal``: reasons why some must not be touched again."""

    number: int
    samples: Sequence[int]
    fatal: Mapping[int, str] = {}


class DroppedSample(Strict):
    """A sample that was left out: one line of the ledger."""

    key: str
    file: str
    reason: str


class VideoChecksum(Strict):
    """What a sample's video is recognised by: equal videos have equal sizes and checksums, others hardly ever."""

    key: str
    size: int
    crc32: int


class BuildTaskResult(Strict):
    """What is reported about a unit: one line of the journal."""

    number: int
    samples: int
    shards: tuple[ShardFile, ...]
    shortest: int
    longest: int
    seconds: float
    codecs: dict[str, int]
    stored: dict[str, int]
    contents: tuple[VideoChecksum, ...]
    dropped: tuple[DroppedSample, ...]

    @property
    def size(self) -> int:
        """Bytes of the tars."""
        return sum(shard.size for shard in self.shards)


def run_build_task(
    source: DataSource, unit: BuildTask, folder: Path, recipe: Recipe, begin: Callable[[int], object]
) -> BuildTaskResult:
    """Read, check and store the samples of a unit; ``begin`` is told the number of each before it is touched."""
    dropped: list[DroppedSample] = []
    facts: list[_Facts] = []
    shards: list[ShardFile] = []
    readable = _readable(source, unit, recipe, begin, dropped)
    for part, samples in groupby(_numbered(readable, recipe.shard_size), key=itemgetter(0)):
        with ShardWriter(folder / _name(unit.number, part)) as writer:
            for _, key, stored in samples:
                writer.add(key, {"json": stored.json, stored.extension: stored.video})
                facts.append(_facts(key, stored))
        shards.append(writer.shard)
    return _report(unit, shards, facts, dropped)


class _Facts(NamedTuple):
    """What the report needs to know of a stored sample."""

    frames: int
    seconds: float
    codec: str
    how: str
    content: VideoChecksum


def _readable(
    source: DataSource, unit: BuildTask, recipe: Recipe, begin: Callable[[int], object], dropped: list[DroppedSample]
) -> Iterator[tuple[str, TarEntry]]:
    """Key and stored form of every sample that can be read; the others are added to ``dropped``."""
    for index in unit.samples:
        origin = source.origin(index)
        begin(index)
        try:
            if index in unit.fatal:
                raise UndecodableError(unit.fatal[index])
            yield origin.key, to_tar_entry(source.load(index), origin.file, source.classes, recipe)
        except UndecodableError as error:
            dropped.append(DroppedSample(key=origin.key, file=origin.file, reason=str(error)))


def _numbered(samples: Iterable[tuple[str, TarEntry]], limit: int | None) -> Iterator[tuple[int, str, TarEntry]]:
    """Samples with the number of the tar they go to: a new one where they would exceed ``limit`` bytes together."""
    part = size = 0
    for key, stored in samples:
        room = len(stored.json) + len(stored.video)
        if limit is not None and size and size + room > limit:
            part, size = part + 1, 0
        size += room
        yield part, key, stored


def _name(number: int, part: int) -> str:
    return f"{number:06d}-{part}.tar" if part else f"{number:06d}.tar"


def _facts(key: str, stored: TarEntry) -> _Facts:
    content = VideoChecksum(key=key, size=len(stored.video), crc32=zlib.crc32(stored.video))
    return _Facts(stored.info.frames, stored.info.seconds, stored.info.codec, stored.how, content)


def _report(
    unit: BuildTask, shards: list[ShardFile], facts: list[_Facts], dropped: list[DroppedSample]
) -> BuildTaskResult:
    lengths = [fact.frames for fact in facts]
    return BuildTaskResult(
        number=unit.number,
        samples=len(unit.samples),
        shards=tuple(shards),
        shortest=min(lengths, default=0),
        longest=max(lengths, default=0),
        seconds=sum(fact.seconds for fact in facts),
        codecs=Counter(fact.codec for fact in facts),
        stored=Counter(fact.how for fact in facts),
        contents=tuple(fact.content for fact in facts),
        dropped=tuple(dropped),
    )
