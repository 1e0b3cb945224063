"""Verification of a shard folder against its manifest, and regeneration of its indexes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from hpc_jepa.data.shards.container import probe_container
from hpc_jepa.data.shards.index import (
    format_index,
    index_command,
    index_path,
    names_with_spaces,
    read_index,
    scan_tar,
)
from hpc_jepa.data.shards.manifest import ShardFile, read_manifest
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.shards.storage_policy import metadata_differences
from hpc_jepa.data.timeline import inspect_video
from hpc_jepa.errors import DataError, InputError, UndecodableError
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.random_streams import RandomStream, uniforms


def find_shard_errors(folder: Path, threads: int, advance: Callable[[], object]) -> list[str]:
    """Errors of a shard folder, one line each. ``advance`` is called after each tar.

    Compares size and checksum of every tar with the manifest, and the index with the tar. Raises DataError if there is
    no readable manifest.
    """
    with ThreadPoolExecutor(threads) as pool:  # hashing releases the GIL
        return _collect(pool.map(partial(_shard_errors, folder), read_manifest(folder).shards), advance)


def find_decode_errors(folder: Path, samples: Sequence[int], threads: int, advance: Callable[[], object]) -> list[str]:
    """Errors of ``samples``, one line each: those that do not decode, also from any frame on, or contradict
    their metadata."""
    shards = ShardFolder(folder)
    with ThreadPoolExecutor(threads) as pool:
        errors = _collect(pool.map(partial(_sample_errors, shards), samples), advance)
    shards.close()
    return errors


def random_samples(folder: Path, count: int, seed: int) -> list[int]:
    """``count`` different random samples of a shard folder, in storage order."""
    total = read_manifest(folder).samples
    order = uniforms(seed, RandomStream.SHARD_ORDER, 0, (total,)).argsort(kind="stable")
    return sorted(order[:count].tolist())


def write_indexes(path: Path) -> dict[Path, list[str]]:
    """Regenerate the index of a tar, or of every tar in a folder; by tar, the names that DALI cannot parse in it.

    Raises InputError if there are no tars, DataError if one is damaged.
    """
    tars = [path] if path.is_file() else sorted(path.glob("*.tar"))
    if not tars:
        raise InputError(f"{path}: no *.tar files; give a tar or a folder of tars")
    unparsable = {}
    for tar in tars:
        samples = scan_tar(tar)
        write_atomically(index_path(tar), format_index(samples).encode())
        unparsable[tar] = names_with_spaces(samples)
    return unparsable


def _collect(results: Iterable[list[str]], advance: Callable[[], object]) -> list[str]:
    errors: list[str] = []
    for part in results:
        errors += part
        advance()
    return errors


def _shard_errors(folder: Path, shard: ShardFile) -> list[str]:
    path = folder / shard.name
    if not path.is_file():
        return [f"{path}: missing"]
    if path.stat().st_size != shard.size:
        return [f"{path}: has {path.stat().st_size} bytes, {shard.size} in the manifest"]
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                return [f"{path}: checksum differs from the manifest"]
        index_matches = read_index(index_path(path)) == scan_tar(path)
    except DataError as error:
        return [str(error)]
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror})"]
    return [] if index_matches else [f"{index_path(path)}: does not match the tar; {index_command(folder)}"]


def _sample_errors(shards: ShardFolder, index: int) -> list[str]:
    try:
        problems = list(_metadata_differences(shards, index))
    except UndecodableError as error:
        problems = [str(error)]
    return [f"{shards.tar(index)}: {shards.key(index)} {problem}" for problem in problems]


def _metadata_differences(shards: ShardFolder, index: int) -> Iterator[str]:
    video, info = shards.read(index)
    yield from metadata_differences(inspect_video(video), info)
    if shards.manifest.clusters == "known" and info.cluster is None:
        yield "has no cluster, but the manifest says that all have one"
    if not info.is_image and probe_container(video).rotated:
        yield "is not upright: players rotate or mirror it"
