"""Classes of a test split by the names of those of the training split, which may be another data set."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.data.shards.manifest import read_manifest
from hpc_jepa.data.sources.annotations import ClassNumbers
from hpc_jepa.errors import InputError


def refuse_other_classes(train: Path, test: Path, classes: int) -> None:
    """Raise InputError if the manifests of two splits show that they do not have the ``classes`` of a benchmark.

    Reads no sample: shards that list more classes than the benchmark may have samples of those alone.
    """
    listed = len(read_manifest(train).classes)
    if 0 < listed < classes:
        raise InputError(
            f"{train}: {listed} classes, but the benchmark has classes: {classes}; set classes: {listed} in it, or "
            "train: to shards that have all of them"
        )
    training_numbers(train, test)


def training_numbers(train: Path, test: Path) -> NDArray[np.int64] | None:
    """[classes of ``test``]: the number that each has in ``train``; None if it is its own, or if names are unknown.

    Another spelling (case, spaces, punctuation) of exactly one class is accepted. Raises InputError naming a class of
    ``test`` that ``train`` does not have, and the one that has its number there.
    """
    known, asked = (read_manifest(folder).classes for folder in (train, test))
    if all(ours == theirs for ours, theirs in zip(known, asked, strict=False)):
        return None
    numbers = ClassNumbers(known)
    found = [numbers.get(name) for name in asked]
    for label, (name, number) in enumerate(zip(asked, found, strict=True)):
        if number is None or found.index(number) < label:
            beside = f", whose class {label} is '{known[label]}'" if label < len(known) else ""
            problem = (
                "is not a class" if number is None else f"is '{known[number]}' like '{asked[found.index(number)]}'"
            )
            raise InputError(
                f"{test}: its class {label}, '{name}', {problem} of {train}{beside}; build both with the same class "
                "names, or leave out the classes that only one of them has"
            )
    return np.array([number for number in found if number is not None], dtype=np.int64)
