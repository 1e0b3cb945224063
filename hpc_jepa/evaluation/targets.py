"""Targets of a split: the number of each sample that probes predict, from the metadata in the shards."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.distributed import GlooGroup, rank, world_size
from hpc_jepa.errors import DataError, UndecodableError
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.io.escape import shell_command


def read_targets(shards: Path, key: str, samples: NDArray[np.int64], group: GlooGroup) -> NDArray[np.float64]:
    """[samples]: the number ``key`` of each sample. Collective: every process reads a part of them.

    Raises DataError on all processes, naming the first sample without a finite number, or if all numbers are equal.
    """
    folder = ShardFolder(shards)
    own: dict[int, float | str] = {}
    for index in samples[rank() :: world_size()].tolist():
        own[index] = _read(folder, key, index)
    folder.close()
    found = {index: value for part in group.gather_objects(own) for index, value in part.items()}
    ordered = [found[index] for index in samples.tolist()]
    problem = next((value for value in ordered if isinstance(value, str)), None)
    if problem is not None:
        raise DataError(f"{shards}: {problem}")
    numbers = np.array(ordered, dtype=np.float64)
    if (numbers == numbers[0]).all():
        raise DataError(
            f"{shards}: '{key}' is {numbers[0]:g} in all {len(numbers)} samples; there is nothing to predict"
        )
    return numbers


def with_targets(features: FrozenFeatures, samples: NDArray[np.int64], targets: NDArray[np.float64]) -> FrozenFeatures:
    """The features with the targets of their samples, and one class for all, so that no split is by class."""
    own = targets[np.searchsorted(samples, features.samples)]
    return replace(features, targets=own, labels=np.zeros_like(features.labels))


def _read(folder: ShardFolder, key: str, index: int) -> float | str:
    """The number of a sample, or what is wrong with it."""
    name = folder.key(index)
    try:
        targets = folder.info(index).targets or {}
    except UndecodableError as error:
        return f"sample {name} {error}; copy or build the shards again"
    if key not in targets:
        known = f"; it has {', '.join(sorted(targets))}" if targets else ""
        command = shell_command("hpc-jepa", "shards", "build", "csv", "--target", key, "...")
        return f"sample {name} has no number '{key}'{known}; store it with: {command}"
    value = targets[key]
    return value if math.isfinite(value) else f"sample {name}: '{key}' is {value}, not a finite number"
