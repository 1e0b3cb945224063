"""Build a shard folder from a data source.

OUT/<split>/000000.tar  000000.idx  ...  contents.jsonl  ledger.jsonl  manifest.json

The samples are split into tasks whose output depends on their samples alone, so the folder is the same for any number
of processes, and for a build that was interrupted and resumed.
"""

import errno
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np

import hpc_jepa
from hpc_jepa.data.encode import H264, Encoding
from hpc_jepa.data.shards.build_task import BuildTask, BuildTaskResult
from hpc_jepa.data.shards.manifest import (
    MANIFEST_NAME,
    Clusters,
    Recipe,
    ShardManifest,
    read_manifest,
    recipe_difference,
)
from hpc_jepa.data.shards.partial_build import LEDGER, PartialBuild, open_partial_build
from hpc_jepa.data.shards.worker_pool import Advance, BuildContext, run_build_tasks
from hpc_jepa.data.sources.source import DataSource
from hpc_jepa.errors import DataError, HpcJepaError, InputError
from hpc_jepa.io.random_streams import RandomStream, uniforms

ALLOWED_DROPS = 0.05
MIN_SAMPLES_FOR_RATE = 1000
"""The drop rate is computed over at least this many samples, so that early errors do not stop a build."""

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
GIB = 2**30


def make_recipe(source: DataSource, samples_per_shard: int, encoding: Encoding = H264) -> Recipe:
    """The recipe of ``source`` with defaults for everything else."""
    return Recipe(
        dataset=source.dataset,
        split=source.split,
        settings=dict(source.settings),
        encoding=encoding,
        samples_per_shard=samples_per_shard,
    )


def is_built(folder: Path, recipe: Recipe) -> bool:
    """Whether ``folder`` is already complete. Raises InputError if it has other contents or another recipe."""
    if not folder.exists():
        return False
    if not (folder / MANIFEST_NAME).is_file():
        raise InputError(f"{folder}: exists and is not a shard folder; remove it or choose another --out")
    old = read_manifest(folder).recipe
    if old != recipe:
        raise InputError(f"{folder}: built with other settings ({recipe_difference(old, recipe)}); change --out")
    return True


def build_shards(
    source: DataSource,
    folder: Path,
    recipe: Recipe,
    workers: int,
    advance: Advance,
    on_result: Callable[[BuildTaskResult], object] = lambda result: None,
    allowed_drops: float = ALLOWED_DROPS,
) -> ShardManifest:
    """Write the shards of ``source`` into ``folder``, which must not exist, or resume an interrupted build.

    ``workers``: processes; 0 for this one. ``advance`` counts samples as they start, ``on_result`` receives the results
    of finished tasks, earlier ones included. Raises DataError if no sample can be read, or if more than
    ``allowed_drops`` cannot, and InputError if the disk is full. Finished tasks are kept for the next attempt.
    """
    with open_partial_build(folder, recipe) as partial:
        if not partial.complete:
            for result in partial.results.values():
                advance(result.samples)
                on_result(result)
            missing = [task for task in _split_into_tasks(source, recipe) if task.number not in partial.results]
            with _disk_full_is_input_error(partial, len(source)):
                for result in run_build_tasks(BuildContext(source, partial.path, recipe), missing, workers, advance):
                    partial.add(result)
                    on_result(result)
                    _check_drop_rate(partial, allowed_drops)
            results = [partial.results[number] for number in sorted(partial.results)]
            manifest = _make_manifest(partial, source, recipe, results)
            partial.write_ledger(drop for result in results for drop in result.dropped)
            partial.finish(manifest, (checksum for result in results for checksum in result.contents))
        partial.publish()
    return read_manifest(folder)


def _split_into_tasks(source: DataSource, recipe: Recipe) -> list[BuildTask]:
    """All samples in storage order, split into equal parts."""
    order = np.arange(len(source))
    if recipe.shuffle_seed is not None:
        order = uniforms(recipe.shuffle_seed, RandomStream.SHARD_ORDER, 0, (len(source),)).argsort(kind="stable")
    starts = range(0, len(order), recipe.samples_per_shard)
    parts = (order[start : start + recipe.samples_per_shard].tolist() for start in starts)
    return [BuildTask(number, samples) for number, samples in enumerate(parts)]


def _check_drop_rate(partial: PartialBuild, allowed: float) -> None:
    samples = sum(result.samples for result in partial.results.values())
    dropped = [drop for result in partial.results.values() for drop in result.dropped]
    if len(dropped) > allowed * max(samples, MIN_SAMPLES_FOR_RATE):
        partial.write_ledger(dropped)
        reason, count = Counter(drop.reason for drop in dropped).most_common(1)[0]
        raise DataError(
            f"{len(dropped)} of {samples} samples cannot be read, more than --allowed-drops {allowed:g}; "
            f"most frequent reason ({count} times): {reason}; all are listed in {partial.path / LEDGER}"
        )


@contextmanager
def _disk_full_is_input_error(partial: PartialBuild, samples: int) -> Iterator[None]:
    try:
        yield
    except (OSError, HpcJepaError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in DISK_FULL_ERRNOS:
            raise
        done = sum(result.samples for result in partial.results.values())
        written = sum(result.size for result in partial.results.values()) / GIB
        free = shutil.disk_usage(partial.path).free / GIB
        needed = (
            f"about {written / done * (samples - done):.2f} GiB more are needed" if done else "nothing is built yet"
        )
        raise InputError(
            f"{partial.path}: disk full or quota exceeded, {free:.2f} GiB free; {done} of {samples} samples took "
            f"{written:.2f} GiB, {needed}; free some space and run the same command again"
        ) from error


def _make_manifest(
    partial: PartialBuild, source: DataSource, recipe: Recipe, results: list[BuildTaskResult]
) -> ShardManifest:
    dropped = [drop for result in results for drop in result.dropped]
    samples = sum(shard.samples for result in results for shard in result.shards)
    if not samples:
        partial.results.clear()
        first = f"; the first, {dropped[0].file}: {dropped[0].reason}" if dropped else ""
        raise DataError(f"{source.dataset} {source.split}: none of {len(source)} samples can be decoded{first}")
    return ShardManifest(
        recipe=recipe,
        classes=source.classes,
        samples=samples,
        dropped=len(dropped),
        shortest=min(result.shortest for result in results if result.shards),
        longest=max(result.longest for result in results),
        shards=tuple(shard for result in results for shard in result.shards),
        software={"hpc_jepa": hpc_jepa.__version__, "av": av.__version__},
        seconds=round(sum(result.seconds for result in results), 3),
        codecs=_sum_counts(result.codecs for result in results),
        stored=_sum_counts(result.stored for result in results),
        clusters=_clusters(source, samples, sum(result.with_cluster for result in results)),
        shared_clusters=getattr(source, "shared_clusters", 0),  # an optional attribute of sources
    )


def _clusters(source: DataSource, samples: int, with_cluster: int) -> Clusters:
    """What is known of the clusters; some samples without one, as a resumed build may have, make all unknown."""
    if getattr(source, "independent", False):  # an optional attribute of sources
        return "independent"
    return "known" if with_cluster == samples else "unknown"


def _sum_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Sums by name, sorted by name."""
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(sorted(total.items()))
