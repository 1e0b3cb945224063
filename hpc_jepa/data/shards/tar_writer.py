"""Writes one tar and its index; equal samples give equal bytes."""

import hashlib
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from hpc_jepa.data.shards.index import BLOCK, IndexedSample, Member, format_index, index_path
from hpc_jepa.data.shards.manifest import ShardFile
from hpc_jepa.io.atomic import write_atomically

END = bytes(2 * BLOCK)
"""End-of-archive marker; the writer pads it to a full record of 20 blocks, as ``tar`` does."""


class ShardWriter:
    """Writes samples to a USTAR tar without times or owners. The tar is renamed to ``path`` when it is complete.

    with ShardWriter(path) as writer:
        writer.add("clip-000001", {"json": ..., "mp4": ...})
    shard = writer.shard
    """

    shard: ShardFile

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._samples: list[IndexedSample] = []
        self._checksum = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Self:
        self._file = self._partial.open("wb", buffering=0)
        return self

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; ``members`` by extension, in reading order."""
        self._samples.append(tuple(self._append(key, extension, data) for extension, data in members.items()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._write(END + bytes(-(self.size + len(END)) % tarfile.RECORDSIZE))
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
        if error is not None or not self._samples:
            self._partial.unlink()
            return
        write_atomically(index_path(self._path), format_index(self._samples).encode())
        self._partial.rename(self._path)
        self.shard = ShardFile(
            name=self._path.name, samples=len(self._samples), size=self.size, sha256=self._checksum.hexdigest()
        )

    def _append(self, key: str, extension: str, data: bytes) -> Member:
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size = len(data)
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))
        return Member(extension, offset, len(data), header.name)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._checksum.update(data)
        self.size += len(data)
