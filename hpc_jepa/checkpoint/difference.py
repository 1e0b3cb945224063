"""How two checkpoints differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpc_jepa.checkpoint.layout import WEIGHT_PREFIXES, Checkpoint
from hpc_jepa.checkpoint.reader import TensorReader


@dataclass(frozen=True)
class TensorDiff:
    """A tensor that is not the same in A and B.

    only: "A" or "B" where the other has none of that name and shape, else empty. differing: how many of the elements;
    largest: the largest difference; relative: norm of the difference over the norm in A.
    """

    name: str
    shape: tuple[int, ...]
    only: str = ""
    differing: int = 0
    largest: float = 0.0
    relative: float = 0.0


def diff_tensors(a: Checkpoint, b: Checkpoint, prefixes: tuple[str, ...] = WEIGHT_PREFIXES) -> Iterator[TensorDiff]:
    """Tensors under ``prefixes`` that differ in a bit, in the order of A, then those that only B has."""
    stored = TensorReader(a), TensorReader(b)
    ours, theirs = ({name: one.shape(name) for name in one if name.startswith(prefixes)} for one in stored)
    for name, shape in ours.items():
        if theirs.get(name) != shape:
            yield TensorDiff(name, shape, only="A")
        elif not torch.equal(stored[0][name], stored[1][name]):
            yield _difference(name, stored[0][name].double(), stored[1][name].double())
    yield from (TensorDiff(name, shape, "B") for name, shape in theirs.items() if ours.get(name) != shape)


def diff_settings(a: Checkpoint, b: Checkpoint) -> dict[str, tuple[Any, Any]]:
    """Settings by dotted name, and data sets and versions, whose values differ: (in A, in B), None where absent."""
    before, after = (
        dict(_flat({**one.manifest.config, "content": one.manifest.data_hashes, "versions": one.manifest.versions}))
        for one in (a, b)
    )
    names = [*before, *(name for name in after if name not in before)]
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _difference(name: str, a: Tensor, b: Tensor) -> TensorDiff:
    """Elements that are NaN in both are no difference."""
    gap = torch.where(a.isnan() & b.isnan() | (a == b), 0.0, (a - b).abs())
    relative = (gap.norm() / a.norm()).item() if a.norm() > 0 else float("inf")
    return TensorDiff(name, tuple(a.shape), "", int(gap.ne(0).sum()), gap.max().item(), relative)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
