"""From a source to a shard folder.

OUT/<split>/000000.tar  000000.idx  ...  contents.jsonl  ledger.jsonl  manifest.json

The samples are cut into units of work, each a function of its samples alone, so the folder is the same for any number
of processes, and for a build that was stopped and goes on.
"""

import errno
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import av
import numpy as np

import hpc_jepa
from hpc_jepa.data.encode import H264, Encoding
from hpc_jepa.data.shards.build_task import BuildTask, BuildTaskResult, DroppedSample
from hpc_jepa.data.shards.manifest import MANIFEST_NAME, Recipe, ShardManifest, read_manifest, recipe_difference
from hpc_jepa.data.shards.partial_build import LEDGER, PartialBuild, open_partial_build
from hpc_jepa.data.shards.worker_pool import Advance, BuildContext, run_build_tasks
from hpc_jepa.data.sources.source import DataSource
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.io.random_streams import RandomStream, uniforms

ALLOWED_DROPS = 0.05
MIN_SAMPLES_FOR_RATE = 1000
"""Samples over which the rate of drops is judged at least, so that a few bad ones early on do not stop a build."""

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_recipe(source: DataSource, samples_per_shard: int, encoding: Encoding = H264) -> Recipe:
    """What the shards of ``source`` are a function of, with everything else at its default."""
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
    if not (folder / MANIFEST_NAME).is_file():
        raise InputError(f"{folder}: exists and is not a shard folder; remove it or choose another --out")
    old = read_manifest(folder).recipe
    if old != recipe:
        raise InputError(
            f"{folder}: built with other settings ({recipe_difference(old, recipe)}); choose another --out"
        )
    return True


def build_shards(
    source: DataSource,
    folder: Path,
    recipe: Recipe,
    workers: int,
    advance: Advance,
    done: Callable[[BuildTaskResult], object] = lambda unit: None,
    allowed_drops: float = ALLOWED_DROPS,
) -> ShardManifest:
    """Write the shards of ``source`` into ``folder``, which must not exist, or go on where an earlier try was stopped.

    ``workers``: processes, 0 for this one. ``advance`` is told of samples as they are begun, ``done`` of units that are
    built, those of an earlier try included. Raises DataError when more than ``allowed_drops`` of the samples cannot be
    read or none can, and InputError when the disk is full; whatever is built stays for the next try.
    """
    with open_partial_build(folder, recipe) as draft:
        if not draft.complete:
            _build_missing(draft, BuildContext(source, draft.path, recipe), workers, advance, done, allowed_drops)
            built = [draft.built[number] for number in sorted(draft.built)]
            manifest = _summary(draft, source, recipe, built)
            draft.write_ledger(drop for unit in built for drop in unit.dropped)
            draft.finish(manifest, (content for unit in built for content in unit.contents))
        draft.rename()
    return read_manifest(folder)


def _build_missing(
    draft: PartialBuild,
    job: BuildContext,
    workers: int,
    advance: Advance,
    done: Callable[[BuildTaskResult], object],
    allowed_drops: float,
) -> None:
    units = _units(job.source, job.recipe)
    for unit in draft.built.values():
        advance(unit.samples)
        done(unit)
    missing = [unit for unit in units if unit.number not in draft.built]
    try:
        for unit in run_build_tasks(job, missing, workers, advance):
            draft.add(unit)
            done(unit)
            _stop_at_too_many_drops(draft, allowed_drops)
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        raise InputError(_space_needed(draft, len(job.source))) from error


def _units(source: DataSource, recipe: Recipe) -> list[BuildTask]:
    """All samples, in the order they are stored, cut into equal parts."""
    order = np.arange(len(source))
    if recipe.shuffle_seed is not None:
        order = uniforms(recipe.shuffle_seed, RandomStream.SHARD_ORDER, 0, (len(source),)).argsort(kind="stable")
    step = recipe.samples_per_shard
    return [
        BuildTask(number, order[first : first + step].tolist())
        for number, first in enumerate(range(0, len(order), step))
    ]


def _stop_at_too_many_drops(draft: PartialBuild, allowed: float) -> None:
    samples = sum(unit.samples for unit in draft.built.values())
    dropped = [drop for unit in draft.built.values() for drop in unit.dropped]
    if len(dropped) > allowed * max(samples, MIN_SAMPLES_FOR_RATE):
        draft.write_ledger(dropped)
        raise DataError(
            f"{len(dropped)} of {samples} samples cannot be read, more than --allowed-drops {allowed:g}; "
            f"{_usual_reason(dropped)}; all are listed in {draft.path / LEDGER}"
        )


def _usual_reason(dropped: Iterable[DroppedSample]) -> str:
    reasons = Counter(drop.reason for drop in dropped)
    reason, times = reasons.most_common(1)[0]
    return f"{times} times: {reason}"


def _space_needed(draft: PartialBuild, samples: int) -> str:
    done = sum(unit.samples for unit in draft.built.values())
    written = sum(unit.size for unit in draft.built.values())
    free = shutil.disk_usage(draft.path).free
    needed = f"about {_gib(written / done * (samples - done))} more are needed" if done else "nothing is built yet"
    return (
        f"{draft.path}: the disk is full or a quota reached, {_gib(free)} free; {done} of {samples} samples took "
        f"{_gib(written)}, {needed}; make room and run the same command again"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _summary(draft: PartialBuild, source: DataSource, recipe: Recipe, built: list[BuildTaskResult]) -> ShardManifest:
    dropped = [drop for unit in built for drop in unit.dropped]
    samples = sum(shard.samples for unit in built for shard in unit.shards)
    if not samples:
        draft.built.clear()
        first = f"; the first, {dropped[0].file}: {dropped[0].reason}" if dropped else ""
        raise DataError(f"{source.dataset} {source.split}: none of {len(source)} samples can be decoded{first}")
    return ShardManifest(
        recipe=recipe,
        classes=source.classes,
        samples=samples,
        dropped=len(dropped),
        shortest=min(unit.shortest for unit in built if unit.shards),
        longest=max(unit.longest for unit in built),
        shards=tuple(shard for unit in built for shard in unit.shards),
        software={"hpc_jepa": hpc_jepa.__version__, "av": av.__version__},
        seconds=round(sum(unit.seconds for unit in built), 3),
        codecs=_total(unit.codecs for unit in built),
        stored=_total(unit.stored for unit in built),
    )


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Sums by name, in the order of names."""
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(sorted(total.items()))
