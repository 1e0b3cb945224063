"""One tar and its index, written so that equal samples give equal bytes."""

import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from hpc_jepa.checkpoint.files import write_atomically
from hpc_jepa.data.shards.index import BLOCK, IndexedSample, Member, format_index, index_path
from hpc_jepa.data.shards.manifest import ShardFile


class ShardWriter:
    """Adds samples to a USTAR tar; headers carry no time, owner or group.

    with ShardWriter(path) as writer:
        writer.add("clip-000001", {"json": ..., "mp4": ...})
    shard = writer.shard
    """

    shard: ShardFile

    def __init__(self, path: Path) -> None:
        self._path = path
        self._samples: list[IndexedSample] = []

    def __enter__(self) -> Self:
        self._tar = tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT)
        return self

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; ``members`` by extension, in the order they are read."""
        self._samples.append(tuple(self._append(key, extension, data) for extension, data in members.items()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()
        if error is not None:
            return
        write_atomically(index_path(self._path), format_index(self._samples).encode())
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        self.shard = ShardFile(
            name=self._path.name, samples=len(self._samples), size=self._path.stat().st_size, sha256=checksum
        )

    def _append(self, key: str, extension: str, data: bytes) -> Member:
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size = len(data)
        offset = self._tar.offset + BLOCK
        self._tar.addfile(header, io.BytesIO(data))
        return Member(extension, offset, len(data), header.name)
