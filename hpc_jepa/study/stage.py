"""Stage the tars of a study on a local disk: those that its cells read first, in the order in which they need them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_jepa.config.data import DataConfig
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.storage import ScratchCache
from hpc_jepa.data.tar_order import TarOrder, mixture_sampler
from hpc_jepa.errors import DataError
from hpc_jepa.study.cell import StudyCell


@dataclass(frozen=True)
class StagedTar:
    """A tar, its checksum and bytes, and the number of steps that the cells train before one of them needs it."""

    path: Path
    sha256: str
    size: int
    first: int


@dataclass
class StagePlan:
    """Tars in the order in which the cells need them, until they exceed the limit.

    tars: those that fit. sources: bytes of all tars of the cells' sources, by checksum. steps: that the cells train
    with the tars alone, from where each of them is; None: to their ends.
    """

    tars: list[StagedTar] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    steps: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the tars that fit."""
        return sum(tar.size for tar in self.tars)


def plan_stage(cells: Sequence[StudyCell], limit: int) -> StagePlan:
    """What the cells read from their last checkpoints on, all at the same speed, within ``limit`` bytes.

    Cells that read the same clips count once; cells that have all their steps read nothing.
    Raises DataError if shards are missing or damaged.
    """
    plan, seen, size = StagePlan(), set[str](), 0
    readers = _readers(cells)
    for reader in readers:
        plan.sources |= {tar.sha256: tar.size for tar in reader.tars.values()}
    for offset in range(max((reader.steps for reader in readers), default=0)):
        for reader in readers:
            for tar in reader.new_at(offset):
                if tar.sha256 in seen:
                    continue
                seen.add(tar.sha256)
                size += tar.size
                if size > limit:
                    plan.steps = offset
                    return plan
                plan.tars.append(tar)
        if all(reader.has_read_all for reader in readers):
            break
    return plan


def stage(plan: StagePlan, folder: Path, limit: int, done: Callable[[StagedTar], object]) -> list[StagedTar]:
    """Copy the tars of a plan to ``folder``, each complete or absent; those that could not be copied.

    Copies that the plan does not need, or needs last, are removed first if there is no room. ``done`` is called for
    each tar. Processes that stage or train on one machine share the copies.
    Raises InputError if the folder cannot be created, DataError if a tar cannot be read or written.
    """
    first = {tar.sha256: float(tar.first) for tar in plan.tars}
    scratch = ScratchCache(folder, limit, evict=True, next_uses=lambda: first)
    missing = []
    try:
        for tar in plan.tars:
            try:
                if not scratch.stage(tar.path, tar.sha256):
                    missing.append(tar)
            except OSError as error:
                raise DataError(f"{tar.path}: cannot be copied to {folder} ({error.strerror})") from error
            done(tar)
    finally:
        scratch.close()
    return missing


class _Reader:
    """Cells that read the same clips: their tars by checksum, and the steps that are left."""

    def __init__(self, cell: StudyCell, start: int, steps: int) -> None:
        config = cell.config
        folders = [ShardFolder(source.shards) for source in config.data.sources.values()]
        sampler = mixture_sampler(config.data, folders, config.seed, config.engine.batch_size)
        self.tars = {
            shard.sha256: StagedTar(folder.path / shard.name, shard.sha256, shard.size, 0)
            for folder in folders
            for shard in folder.manifest.shards
        }
        self.steps = steps
        self._start = start
        self._order = TarOrder(sampler, folders)
        self._unread = set(self.tars)
        for folder in folders:
            folder.close()

    @property
    def has_read_all(self) -> bool:
        """Whether no tar is new any more."""
        return not self._unread

    def new_at(self, offset: int) -> Iterator[StagedTar]:
        """The tars that the step after ``offset`` others needs first."""
        if offset >= self.steps or not self._unread:
            return
        for sha256 in self._order.at(self._start + offset):
            if sha256 in self._unread:
                self._unread.discard(sha256)
                tar = self.tars[sha256]
                yield StagedTar(tar.path, sha256, tar.size, offset)


def _readers(cells: Sequence[StudyCell]) -> list[_Reader]:
    readers: dict[tuple[object, ...], _Reader] = {}
    for cell in cells:
        config = cell.config
        start = cell.run.last_step()
        steps = cell.steps - start
        if steps <= 0:
            continue
        key = (_what_is_read(config.data), config.seed, config.engine.batch_size, start)
        if key not in readers or readers[key].steps < steps:
            readers[key] = _Reader(cell, start, steps)
    return list(readers.values())


def _what_is_read(data: DataConfig) -> str:
    """The settings that decide which samples a step has."""
    return data.model_dump_json(include={"sources", "images", "sampling", "shard_order"})


def scratch_limit(cells: Sequence[StudyCell]) -> float:
    """The smallest limit of the cells' scratch folders, GiB."""
    return min((cell.config.data.reading.scratch_limit for cell in cells), default=math.inf)
