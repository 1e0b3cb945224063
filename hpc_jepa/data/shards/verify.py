"""Check a shard folder against its manifest, and write its indexes anew."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from hpc_jepa.data.decode import inspect_video
from hpc_jepa.data.shards.index import format_index, index_path, read_index, scan_tar
from hpc_jepa.data.shards.manifest import ShardFile, read_manifest
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.errors import DataError, InputError, UndecodableError
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.random_streams import RandomStream, uniforms


def find_shard_errors(folder: Path, threads: int, advance: Callable[[], object]) -> list[str]:
    """Faults of a shard folder, one line each; empty when there are none. ``advance`` is called after each tar.

    Compares size and checksum of every tar with the manifest and the index with the tar; hashing does not hold
    ``threads`` up. Raises DataError when there is no readable manifest.
    """
    faults: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(partial(_shard_faults, folder), read_manifest(folder).shards):
            faults += found
            advance()
    return faults


def find_decode_errors(folder: Path, samples: Sequence[int], threads: int, advance: Callable[[], object]) -> list[str]:
    """Those of ``samples`` that do not decode to what their description says, one line each."""
    shards = ShardFolder(folder)
    faults: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for fault in pool.map(partial(_sample_fault, shards), samples):
            faults += fault
            advance()
    shards.close()
    return faults


def random_samples(folder: Path, count: int, seed: int) -> list[int]:
    """``count`` different samples of a shard folder, at random, in the order they are stored."""
    total = read_manifest(folder).samples
    order = uniforms(seed, RandomStream.SHARD_ORDER, 0, (total,)).argsort(kind="stable")
    return sorted(order[:count].tolist())


def write_indexes(place: Path) -> int:
    """Write the index of a tar, or of every tar in a folder, anew; returns how many.

    Raises InputError where there are none, DataError for damaged ones.
    """
    tars = [place] if place.is_file() else sorted(place.glob("*.tar"))
    if not tars:
        raise InputError(f"{place}: no *.tar files here; give a tar or a folder of tars")
    for tar in tars:
        write_atomically(index_path(tar), format_index(scan_tar(tar)).encode())
    return len(tars)


def _shard_faults(folder: Path, shard: ShardFile) -> list[str]:
    path = folder / shard.name
    if not path.is_file():
        return [f"{path}: missing"]
    if path.stat().st_size != shard.size:
        return [f"{path}: {path.stat().st_size} bytes, the manifest says {shard.size}"]
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                return [f"{path}: checksum differs from the manifest"]
        agrees = read_index(index_path(path)) == scan_tar(path)
    except DataError as error:
        return [str(error)]
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror})"]
    return [] if agrees else [f"{index_path(path)}: does not fit the tar; run: hpc-jepa shards index {folder}"]


def _sample_fault(shards: ShardFolder, index: int) -> list[str]:
    try:
        return [f"{shards.tar(index)}: {shards.key(index)} {fault}" for fault in _differences(shards, index)]
    except UndecodableError as error:
        return [f"{shards.tar(index)}: {shards.key(index)} {error}"]


def _differences(shards: ShardFolder, index: int) -> Iterator[str]:
    video, info = shards.read(index)
    facts = inspect_video(video)
    for name in ("frames", "width", "height", "codec"):
        if getattr(facts, name) != getattr(info, name):
            yield f"has {name} {getattr(facts, name)}, its description says {getattr(info, name)}"
