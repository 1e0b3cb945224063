"""Random access to the samples of a shard folder."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hpc_jepa.data.shards.index import IndexedSample, index_command, index_path, read_index
from hpc_jepa.data.shards.manifest import SampleInfo, ShardFile, manifest_hash, read_manifest
from hpc_jepa.data.storage import ScratchCache, open_storage, parse_location
from hpc_jepa.errors import DataError, UndecodableError
from hpc_jepa.io.retry import retry


class StoredVideo(NamedTuple):
    """A compressed video and its metadata."""

    data: bytes
    info: SampleInfo


EXCERPT_BYTES = 4096


class ShardFolder:
    """The samples of one split, by index. Thread-safe.

    ``folder`` is a path or a URL; with ``scratch`` the tars are read from copies on a local disk. The constructor
    compares tar sizes with the manifest and byte ranges with the tars, which are opened on first use. Raises DataError
    if a file is missing or damaged.
    """

    def __init__(self, folder: Path | str, scratch: ScratchCache | None = None) -> None:
        self.path = parse_location(folder)
        self.manifest = read_manifest(self.path)
        self.hash = manifest_hash(self.path)
        self._tars = [self.path / shard.name for shard in self.manifest.shards]
        self._storage = open_storage(self.path)
        self._scratch = scratch
        self._keys: list[str] = []
        self._extensions: list[str] = []
        extents = [self._read_extents(shard) for shard in self.manifest.shards]
        self._shards = np.repeat(np.arange(len(extents)), [len(rows) for rows in extents])
        self._extents = np.concatenate(extents)

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Name of a sample."""
        return self._keys[index]

    def tar(self, index: int) -> Path:
        """The tar that contains a sample."""
        return self._tars[int(self._shards[index])]

    def extension(self, index: int) -> str:
        """File extension of the video."""
        return self._extensions[index]

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Number of samples in each tar, in order."""
        return tuple(shard.samples for shard in self.manifest.shards)

    def info(self, index: int) -> SampleInfo:
        """Metadata of a sample, without reading its video. Raises UndecodableError if it is damaged."""
        offset, size = self._extents[index, :2]
        return self._parse(self._read(index, offset, size))

    def read(self, index: int) -> StoredVideo:
        """Metadata and video of a sample, which are adjacent in the tar, in one read."""
        info_offset, info_size, offset, size = self._extents[index].tolist()
        data = self._read(index, info_offset, offset + size - info_offset)
        return StoredVideo(data[offset - info_offset :], self._parse(data[:info_size]))

    @property
    def video_sizes(self) -> NDArray[np.int64]:
        """Bytes of each video [n]."""
        return self._extents[:, 3]

    def excerpt(self, index: int) -> bytes:
        """At most EXCERPT_BYTES from the middle of a video, which distinguish videos of equal size."""
        offset, size = self._extents[index, 2:].tolist()
        skipped = max(size - EXCERPT_BYTES, 0) // 2
        return self._read(index, offset + skipped, min(size, EXCERPT_BYTES))

    def close(self) -> None:
        """Close the open tars."""
        self._storage.close()

    def _read(self, index: int, offset: int, size: int) -> bytes:
        path = self.tar(index)
        try:
            if self._scratch:
                sha256 = self.manifest.shards[int(self._shards[index])].sha256
                data = self._scratch.read(path, sha256, offset, size, self._storage)
            else:
                data = self._storage.read(path, offset, size)
        except OSError as error:
            raise self._read_error(path, error) from error
        if len(data) != size:
            raise DataError(f"{path}: ends early, inside {self.key(index)}; copy or build it again")
        return data

    def _parse(self, text: bytes) -> SampleInfo:
        try:
            return SampleInfo.model_validate_json(text)
        except ValidationError as error:
            raise UndecodableError("has damaged metadata") from error

    def _read_extents(self, shard: ShardFile) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """[samples, 4]: offset and size of the metadata, offset and size of the video; also collects the keys."""
        path = self.path / shard.name
        try:
            size = retry(path.stat).st_size
        except FileNotFoundError as error:
            raise DataError(f"{path}: missing, but listed in the manifest; copy or build it again") from error
        except OSError as error:
            raise self._read_error(path, error) from error
        if size != shard.size:
            raise DataError(f"{path}: has {size} bytes, {shard.size} in the manifest; copy or build it again")
        samples = read_index(index_path(path))
        if len(samples) != shard.samples:
            raise self._index_error(path, f"has {len(samples)} samples, {shard.samples} in the manifest")
        self._keys += [sample[0].key for sample in samples]
        extents = [self._extent(path, sample, shard.size) for sample in samples]
        self._extensions += [video.extension for _, video in samples]
        rows = np.array(extents, dtype=np.int64).reshape(-1, 4)
        if (rows[1:, 0] < rows[:-1, 2] + rows[:-1, 3]).any():
            raise self._index_error(path, "sample byte ranges overlap")
        return rows

    def _extent(self, path: Path, sample: IndexedSample, end: int) -> tuple[int, int, int, int]:
        if len(sample) != 2 or sample[0].extension != "json":
            raise DataError(f"{path}: {sample[0].key} is not a JSON file followed by a video; build it again")
        info, video = sample
        if not 0 <= info.offset < info.offset + info.size <= video.offset < video.offset + video.size <= end:
            raise self._index_error(path, "points outside the tar")
        return info.offset, info.size, video.offset, video.size

    def _read_error(self, tar: Path, error: OSError) -> DataError:
        return DataError(
            f"{tar}: cannot be read ({error.strerror or error}); it may be sound: check the file system, then try again"
        )

    def _index_error(self, tar: Path, problem: str) -> DataError:
        return DataError(f"{index_path(tar)}: {problem}; {index_command(self.path)}")
