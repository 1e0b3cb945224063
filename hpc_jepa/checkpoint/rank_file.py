"""One process's share of a checkpoint: flat pieces of named tensors in a safetensors file, hashed as it is written.

The layout is that of the safetensors library, which reads these files. It is written here because the library's own
writer copies every tensor once more, keeps the interpreter from running meanwhile, and leaves the checksum to a second
reading; this one streams, so that a save disturbs the training beside it as little as possible.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.uint8: "U8"}
ALIGNMENT = 8


class FileDigest(BaseModel):
    """Bytes and checksum of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class TensorShard:
    """``values`` [n]: the elements from ``start`` of the flattened tensor ``name``, whose whole is ``shape``."""

    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor

    @property
    def key(self) -> str:
        """The name of the piece in its file."""
        return f"{self.name}@{self.start}"


def parse_key(key: str) -> tuple[str, int]:
    """Name of the tensor and first element of the piece that a file calls ``key``."""
    name, _, start = key.rpartition("@")
    return name, int(start)


def write_rank_file(path: Path, shards: Sequence[TensorShard]) -> FileDigest:
    """Write pieces in the memory of the host, and wait until the disk has them. Raises OSError."""
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as file:
        for block in _blocks(shards):
            file.write(block)
            digest.update(block)
            size += len(block)
        file.flush()
        os.fsync(file.fileno())
    return FileDigest(size=size, sha256=digest.hexdigest())


def _blocks(shards: Sequence[TensorShard]) -> Iterator[memoryview]:
    """Length of the header, header, and the bytes of every piece."""
    entries, offset = {}, 0
    for shard in shards:
        end = offset + shard.values.nbytes
        entries[shard.key] = {
            "dtype": DTYPES[shard.values.dtype],
            "shape": list(shard.values.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    yield memoryview(len(header).to_bytes(8, "little") + header)
    for shard in shards:
        yield shard.values.contiguous().view(torch.uint8).numpy().data
