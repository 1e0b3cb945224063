"""The files of one rank: shards of named tensors in the safetensors format, hashed while they are written.

The safetensors library reads these files. Its writer is not used because it copies every tensor, holds the GIL and
needs a second pass for the checksum; this one streams, so that a save slows training as little as possible.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, Field
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.uint8: "U8"}
ALIGNMENT = 8


class FileDigest(BaseModel):
    """Size in bytes and SHA-256 of a file."""

    size: int = Field(ge=0)
    sha256: str


@dataclass(frozen=True)
class TensorShard:
    """``values`` [n]: elements ``start`` to ``start + n`` of the flattened tensor ``name`` of shape ``shape``."""

    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor

    @property
    def key(self) -> str:
        """Name of the shard in its file."""
        return f"{self.name}@{self.start}"


def parse_key(key: str) -> tuple[str, int]:
    """Tensor name and first element of the shard with this key."""
    name, _, start = key.rpartition("@")
    return name, int(start)


def write_rank_file(path: Path, shards: Sequence[TensorShard]) -> FileDigest:
    """Write shards in host memory and flush them to the disk; replaces the file of a failed attempt. Raises OSError."""
    path.unlink(missing_ok=True)
    digest = hashlib.sha256()
    size = 0
    with path.open("xb") as file:
        for block in _blocks(shards):
            file.write(block)
            digest.update(block)
            size += len(block)
        file.flush()
        os.fsync(file.fileno())
    return FileDigest(size=size, sha256=digest.hexdigest())


def _blocks(shards: Sequence[TensorShard]) -> Iterator[memoryview]:
    """Length of the header with the header, then the bytes of every shard."""
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
