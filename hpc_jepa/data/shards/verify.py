"""Check a shard folder against its manifest, and rebuild its indexes."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from hpc_jepa.checkpoint.files import write_atomically
from hpc_jepa.data.decode import UndecodableError, inspect
from hpc_jepa.data.shards.folder import ShardFolder
from hpc_jepa.data.shards.index import format_index, index_path, read_index, scan_tar
from hpc_jepa.data.shards.manifest import ShardFile, read_manifest
from hpc_jepa.errors import DataError


def find_faults(folder: Path, decode: bool, advance: Callable[[], object]) -> list[str]:
    """Faults of a shard folder, one line each; empty when there are none. ``advance`` is called after each tar.

    Compares size and checksum of every tar with the manifest and the index with the tar; ``decode`` also decodes every
    frame. Raises DataError when there is no readable manifest.
    """
    faults = []
    for shard in read_manifest(folder).shards:
        faults += _shard_faults(folder, shard)
        advance()
    return faults or (_undecodable(ShardFolder(folder)) if decode else [])


def write_indexes(folder: Path) -> int:
    """Write the index of every tar in ``folder`` anew; returns how many. Raises DataError for damaged tars or none."""
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(f"{folder}: no *.tar files here; give a folder of shards")
    for tar in tars:
        write_atomically(index_path(tar), format_index(scan_tar(tar)).encode())
    return len(tars)


def _shard_faults(folder: Path, shard: ShardFile) -> list[str]:
    path = folder / shard.name
    if not path.is_file():
        return [f"{path}: missing"]
    if path.stat().st_size != shard.size:
        return [f"{path}: {path.stat().st_size} bytes, the manifest says {shard.size}"]
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            return [f"{path}: checksum differs from the manifest"]
    try:
        agrees = read_index(index_path(path)) == scan_tar(path)
    except DataError as error:
        return [str(error)]
    return [] if agrees else [f"{index_path(path)}: does not fit the tar; run: hpc-jepa shards index {folder}"]


def _undecodable(shards: ShardFolder) -> list[str]:
    faults = []
    for index in range(len(shards)):
        try:
            inspect(shards.read(index).data)
        except UndecodableError as error:
            faults.append(f"{shards.tar(index)}: {shards.key(index)} {error}")
    return faults
