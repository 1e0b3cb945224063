"""Read samples of a shard folder at random."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from hpc_jepa.data.decode import UndecodableError
from hpc_jepa.data.shards.index import IndexedSample, index_path, read_index
from hpc_jepa.data.shards.manifest import SampleInfo, ShardFile, manifest_hash, read_manifest
from hpc_jepa.data.storage import CachedStorage, ScratchCache, ShardStorage, open_storage, parse_location
from hpc_jepa.errors import DataError


class StoredVideo(NamedTuple):
    """A compressed video and what is known about it."""

    data: bytes
    info: SampleInfo


class ShardFolder:
    """The samples of one split, by number. Safe to read from several threads.

    ``folder`` is a path or a URL; with ``scratch`` the tars are read from copies on a local disk. Opening checks that
    every tar has the size in the manifest and that the index points into it; the tars themselves are opened when
    needed. Raises DataError for whatever is missing or damaged.
    """

    def __init__(self, folder: Path | str, scratch: ScratchCache | None = None) -> None:
        self.folder = parse_location(folder)
        self.manifest = read_manifest(self.folder)
        self.hash = manifest_hash(self.folder)
        self._tars = [self.folder / shard.name for shard in self.manifest.shards]
        store = open_storage(self.folder)
        self._store: ShardStorage = CachedStorage(store, scratch) if scratch else store
        self._keys: list[str] = []
        self._extensions: list[str] = []
        extents = [self._extents(shard) for shard in self.manifest.shards]
        self._shards = np.repeat(np.arange(len(extents)), [len(rows) for rows in extents])
        self._extents_of = np.concatenate(extents)

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Name of a sample."""
        return self._keys[index]

    def tar(self, index: int) -> Path:
        """The file a sample lies in."""
        return self._tars[int(self._shards[index])]

    def extension(self, index: int) -> str:
        """What kind of file the video is."""
        return self._extensions[index]

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Samples of each tar, in their order."""
        return tuple(shard.samples for shard in self.manifest.shards)

    def info(self, index: int) -> SampleInfo:
        """What is known about a sample, without reading its video. Raises UndecodableError if that is damaged."""
        offset, size = self._extents_of[index, :2]
        return self._parse(self._read(index, offset, size))

    def read(self, index: int) -> StoredVideo:
        """A sample in one read: its description lies right before its video."""
        info_offset, info_size, offset, size = self._extents_of[index].tolist()
        data = self._read(index, info_offset, offset + size - info_offset)
        return StoredVideo(data[offset - info_offset :], self._parse(data[:info_size]))

    def close(self) -> None:
        """Let go of the open tars."""
        self._store.close()

    def _read(self, index: int, offset: int, size: int) -> bytes:
        path = self.tar(index)
        try:
            data = self._store.read(path, offset, size)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}); copy or build it again") from error
        if len(data) != size:
            raise DataError(f"{path}: ends early, inside {self.key(index)}; copy or build it again")
        return data

    def _parse(self, text: bytes) -> SampleInfo:
        try:
            return SampleInfo.model_validate_json(text)
        except ValidationError as error:
            raise UndecodableError("its description is damaged") from error

    def _extents(self, shard: ShardFile) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """[samples, 4]: offset and size of the description, offset and size of the video; notes the keys."""
        path = self.folder / shard.name
        if not path.is_file():
            raise DataError(f"{path}: missing, though the manifest lists it; copy or build it again")
        if (size := path.stat().st_size) != shard.size:
            raise DataError(f"{path}: {size} bytes, the manifest says {shard.size}; copy or build it again")
        samples = read_index(index_path(path))
        if len(samples) != shard.samples:
            raise DataError(
                f"{index_path(path)}: {len(samples)} samples, the manifest says {shard.samples}; "
                f"run: hpc-jepa shards index {self.folder}"
            )
        self._keys += [sample[0].key for sample in samples]
        extents = [self._extent(path, sample, shard.size) for sample in samples]
        self._extensions += [video.extension for _, video in samples]
        rows = np.array(extents, dtype=np.int64).reshape(-1, 4)
        if (rows[1:, 0] < rows[:-1, 2] + rows[:-1, 3]).any():
            raise DataError(f"{index_path(path)}: samples lie one in another; run: hpc-jepa shards index {self.folder}")
        return rows

    def _extent(self, path: Path, sample: IndexedSample, end: int) -> tuple[int, int, int, int]:
        if len(sample) != 2 or sample[0].extension != "json":
            raise DataError(f"{path}: {sample[0].key} is not a description followed by a video; build it again")
        info, video = sample
        if not 0 <= info.offset < info.offset + info.size <= video.offset < video.offset + video.size <= end:
            raise DataError(f"{index_path(path)}: points outside the tar; run: hpc-jepa shards index {self.folder}")
        return info.offset, info.size, video.offset, video.size
