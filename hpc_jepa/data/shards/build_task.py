"""A build task: a range of samples becomes one tar, or several if they exceed the size limit.

The output is a function of the source, the recipe and the samples of the task alone.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from hpc_jepa.config.strict import Strict
from hpc_jepa.data.shards.manifest import Recipe, SampleInfo, ShardFile
from hpc_jepa.data.shards.storage_policy import TarEntry, to_tar_entry
from hpc_jepa.data.shards.tar_writer import ShardWriter
from hpc_jepa.data.sources.source import DataSource
from hpc_jepa.errors import UndecodableError


class BuildTask(NamedTuple):
    """``samples`` of a source in storage order; ``fatal``: samples to skip, which crashed a worker, and why."""

    number: int
    samples: Sequence[int]
    fatal: Mapping[int, str] = {}


class DroppedSample(Strict):
    """A sample that was left out: one line of the ledger."""

    key: str
    file: str
    reason: str


class VideoChecksum(Strict):
    """Size and CRC-32 of a sample's video, which select candidates for duplicates."""

    key: str
    size: int
    crc32: int


class BuildTaskResult(Strict):
    """Result of a build task: one line of the journal."""

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
    with_cluster: int = 0

    @property
    def size(self) -> int:
        """Bytes of the tars."""
        return sum(shard.size for shard in self.shards)


def run_build_task(
    source: DataSource, task: BuildTask, folder: Path, recipe: Recipe, on_sample: Callable[[int], object]
) -> BuildTaskResult:
    """Read, check and store the samples of a task; ``on_sample`` is called with each sample before it is read."""
    dropped: list[DroppedSample] = []
    infos: list[SampleInfo] = []
    methods: Counter[str] = Counter()
    checksums: list[VideoChecksum] = []
    shards: list[ShardFile] = []
    entries = _read_entries(source, task, recipe, on_sample, dropped)
    for part, samples in groupby(_split_by_size(entries, recipe.shard_size), key=itemgetter(0)):
        with ShardWriter(folder / _tar_name(task.number, part)) as writer:
            for _, key, entry in samples:
                writer.add(key, {"json": entry.json, entry.extension: entry.video})
                infos.append(entry.info)
                methods[entry.method] += 1
                checksums.append(VideoChecksum(key=key, size=len(entry.video), crc32=zlib.crc32(entry.video)))
        shards.append(writer.shard)
    lengths = [info.frames for info in infos]
    return BuildTaskResult(
        number=task.number,
        samples=len(task.samples),
        shards=tuple(shards),
        shortest=min(lengths, default=0),
        longest=max(lengths, default=0),
        seconds=sum(info.seconds for info in infos),
        codecs=Counter(info.codec for info in infos),
        stored=methods,
        contents=tuple(checksums),
        dropped=tuple(dropped),
        with_cluster=sum(info.cluster is not None for info in infos),
    )


def _read_entries(
    source: DataSource,
    task: BuildTask,
    recipe: Recipe,
    on_sample: Callable[[int], object],
    dropped: list[DroppedSample],
) -> Iterator[tuple[str, TarEntry]]:
    """Key and tar entry of every readable sample; the others are appended to ``dropped``."""
    for index in task.samples:
        origin = source.origin(index)
        on_sample(index)
        try:
            if index in task.fatal:
                raise UndecodableError(task.fatal[index])
            yield origin.key, to_tar_entry(source.load(index), origin.file, source.classes, recipe)
        except UndecodableError as error:
            dropped.append(DroppedSample(key=origin.key, file=origin.file, reason=str(error)))


def _split_by_size(samples: Iterable[tuple[str, TarEntry]], limit: int | None) -> Iterator[tuple[int, str, TarEntry]]:
    """Samples with the number of their tar: a new tar starts where one would exceed ``limit`` bytes."""
    part = size = 0
    for key, entry in samples:
        entry_size = len(entry.json) + len(entry.video)
        if limit is not None and size and size + entry_size > limit:
            part, size = part + 1, 0
        size += entry_size
        yield part, key, entry


def _tar_name(number: int, part: int) -> str:
    return f"{number:06d}-{part}.tar" if part else f"{number:06d}.tar"
