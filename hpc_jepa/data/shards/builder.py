"""From a source to a shard folder: all of it, or nothing.

OUT/<split>/000000.tar  000000.idx  ...  ledger.jsonl  manifest.json

Everything is written into a hidden folder beside it and renamed when complete. Each shard is a unit of work of its own,
a function of its range of samples, so the folder is the same for any number of processes.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av

import hpc_jepa
from hpc_jepa.checkpoint.files import sole_writer, sync, write_atomically
from hpc_jepa.data.decode import UndecodableError, inspect
from hpc_jepa.data.encode import H264, Encoding, encode
from hpc_jepa.data.shards.manifest import NAME, Manifest, Recipe, SampleInfo, ShardFile, read_manifest
from hpc_jepa.data.shards.writer import ShardWriter
from hpc_jepa.data.sources.source import EncodedFile, Sample, Source
from hpc_jepa.errors import DataError, InputError

LEDGER = "ledger.jsonl"


class Dropped(NamedTuple):
    """A sample that was left out: one line of the ledger."""

    key: str
    file: str
    reason: str


@dataclass(frozen=True)
class BuiltShard:
    """What a worker reports about the shard it has written; ``shard`` is None if every sample was dropped."""

    shard: ShardFile | None
    lengths: tuple[int, ...]
    dropped: tuple[Dropped, ...]


def recipe_of(source: Source, samples_per_shard: int, encoding: Encoding = H264) -> Recipe:
    """What the shards of ``source`` are a function of."""
    return Recipe(
        dataset=source.dataset,
        split=source.split,
        settings=dict(source.settings),
        encoding=encoding,
        samples_per_shard=samples_per_shard,
    )


def is_built(folder: Path, recipe: Recipe) -> bool:
    """Whether ``folder`` is complete already. Raises InputError if it holds something else."""
    if not folder.exists():
        return False
    if not (folder / NAME).is_file():
        raise InputError(f"{folder}: exists and is not a shard folder; remove it or choose another --out")
    old = read_manifest(folder).recipe
    if old != recipe:
        raise InputError(f"{folder}: built with other settings ({_difference(old, recipe)}); choose another --out")
    return True


@contextmanager
def worker_pool(count: int) -> Iterator[Executor]:
    """Processes that build shards; Ctrl-C ends them at once, and so does the end of this process, however it ends."""
    # Forked from a server without threads, which imports the program only once for all of them.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(count, context, _begin_work) as pool:
        yield pool


def _begin_work() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A worker waits for orders from a pipe that other workers hold open too: it would outlive a killed parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def build(
    source: Source, folder: Path, recipe: Recipe, workers: Executor, advance: Callable[[int], object]
) -> Manifest:
    """Write the shards of ``source`` into ``folder``, which must not exist. ``advance`` is told of samples done.

    Raises DataError when not one sample can be decoded. On any failure nothing is left behind.
    """
    with _renamed_when_complete(folder) as draft:
        shards = list(_build_shards(source, draft, recipe, workers, advance))
        manifest = _summary(source, recipe, shards)
        dropped = [drop for built in shards for drop in built.dropped]
        write_atomically(draft / LEDGER, "".join(f"{json.dumps(drop._asdict())}\n" for drop in dropped).encode())
        write_atomically(draft / NAME, manifest.model_dump_json(indent=1).encode())
    return manifest


def build_shard(source: Source, samples: range, path: Path, encoding: Encoding) -> BuiltShard:
    """Write one tar and its index: load, compress, decode once to be sure, store."""
    dropped: list[Dropped] = []
    lengths: list[int] = []
    with ShardWriter(path) as writer:
        for index in samples:
            origin = source.origin(index)
            try:
                extension, video, info = _compress(source.load(index), encoding)
            except UndecodableError as error:
                dropped.append(Dropped(*origin, str(error)))
                continue
            writer.add(origin.key, {"json": info.model_dump_json().encode(), extension: video})
            lengths.append(info.frames)
    if not lengths:
        path.unlink()
        path.with_suffix(".idx").unlink()
    return BuiltShard(writer.shard if lengths else None, tuple(lengths), tuple(dropped))


def _compress(sample: Sample, encoding: Encoding) -> tuple[str, bytes, SampleInfo]:
    media = sample.media
    if isinstance(media, EncodedFile):
        extension, video = media.extension, media.data
    else:
        extension, video = "mp4", encode(media.pixels, media.fps, encoding)
    return extension, video, SampleInfo(**inspect(video)._asdict(), label=sample.label, text=sample.text)


def _build_shards(
    source: Source, draft: Path, recipe: Recipe, workers: Executor, advance: Callable[[int], object]
) -> Iterator[BuiltShard]:
    step = recipe.samples_per_shard
    ranges = [range(first, min(first + step, len(source))) for first in range(0, len(source), step)]
    jobs: list[Future[BuiltShard]] = [
        workers.submit(build_shard, source, samples, draft / f"{number:06d}.tar", recipe.encoding)
        for number, samples in enumerate(ranges)
    ]
    try:
        for job, samples in zip(jobs, ranges, strict=True):
            yield job.result()
            advance(len(samples))
    except BrokenProcessPool as error:
        raise DataError(f"{draft.parent}: a worker process was killed (out of memory?); use fewer --workers") from error
    finally:
        wait([job for job in jobs if not job.cancel()])


def _summary(source: Source, recipe: Recipe, shards: list[BuiltShard]) -> Manifest:
    lengths = [length for built in shards for length in built.lengths]
    dropped = [drop for built in shards for drop in built.dropped]
    if not lengths:
        first = f"; the first, {dropped[0].file}: {dropped[0].reason}" if dropped else ""
        raise DataError(f"{source.dataset} {source.split}: none of {len(source)} samples can be decoded{first}")
    return Manifest(
        recipe=recipe,
        classes=source.classes,
        samples=len(lengths),
        dropped=len(dropped),
        shortest=min(lengths),
        longest=max(lengths),
        shards=tuple(built.shard for built in shards if built.shard),
        software={"hpc_jepa": hpc_jepa.__version__, "av": av.__version__},
    )


@contextmanager
def _renamed_when_complete(folder: Path) -> Iterator[Path]:
    """A hidden folder that becomes ``folder`` at the end, and vanishes on any failure, after a kill at the next try."""
    draft, lock = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "lock"))
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(sole_writer(lock))
            stack.callback(lock.unlink, missing_ok=True)
            stack.callback(shutil.rmtree, draft, ignore_errors=True)
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
        except OSError as error:
            raise InputError(f"{folder.parent}: cannot be written ({error.strerror}); choose another --out") from error
        yield draft
        sync(draft)
        draft.rename(folder)
        sync(folder.parent)


def _difference(old: Recipe, new: Recipe) -> str:
    before, now = _flat(old), _flat(new)
    keys = [key for key in before | now if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key)} there, {now.get(key)} asked for" for key in keys)


def _flat(recipe: Recipe) -> dict[str, object]:
    flat: dict[str, object] = recipe.model_dump(exclude={"settings", "encoding"})
    return flat | recipe.settings | recipe.encoding.model_dump()
