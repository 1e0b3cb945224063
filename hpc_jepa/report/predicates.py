"""Predicates of claims on accuracies of one benchmark."""

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Any, Literal

from pydantic import Field, model_validator

from hpc_jepa.config.strict import Frozen, Strict

SEEDED = re.compile(r"(?P<variant>.+)_seed(?P<seed>\d+)")
SEED = 239
"""Seed of published runs without a seed in their name."""


class ClaimCell(Strict):
    """One accuracy in a claim. The variant ``<name>_seed<N>`` is ``<name>`` trained from seed N."""

    regime: str
    variant: str
    benchmark: str

    def __str__(self) -> str:
        return f"{self.variant} ({self.regime}, {self.benchmark})"

    @property
    def unseeded(self) -> str:
        """The variant without its seed."""
        named = SEEDED.fullmatch(self.variant)
        return named["variant"] if named else self.variant

    @property
    def seed(self) -> int:
        """The seed in the name of the variant, else that of the publication."""
        named = SEEDED.fullmatch(self.variant)
        return int(named["seed"]) if named else SEED


Pair = tuple[ClaimCell, ClaimCell]
"""Minuend and subtrahend of a difference."""


class PredicateBase(Frozen):
    """Accuracies and differences that a statement is about."""

    def pairs(self) -> list[Pair]:
        """Differences in the predicate."""
        return []

    def cells(self) -> list[ClaimCell]:
        """Accuracies in the predicate."""
        return []


class DifferenceEquals(PredicateBase):
    """The difference is ``value`` points within ``tolerance``."""

    type: Literal["difference_equals"]
    minuend: ClaimCell
    subtrahend: ClaimCell
    value: float
    tolerance: float = Field(ge=0)

    @model_validator(mode="after")
    def _of_one_benchmark(self) -> "DifferenceEquals":
        _check_one_benchmark([self.minuend, self.subtrahend])
        return self

    def pairs(self) -> list[Pair]:
        """Differences in the predicate."""
        return [(self.minuend, self.subtrahend)]

    def cells(self) -> list[ClaimCell]:
        """Accuracies in the predicate."""
        return [self.minuend, self.subtrahend]


class _OneColumn(PredicateBase):
    """Several variants on one benchmark."""

    regime: str
    benchmark: str
    variants: tuple[str, ...] = Field(min_length=1)

    def cell(self, variant: str) -> ClaimCell:
        """The accuracy of a variant."""
        return ClaimCell(regime=self.regime, variant=variant, benchmark=self.benchmark)

    def cells(self) -> list[ClaimCell]:
        """Accuracies in the predicate."""
        return [self.cell(variant) for variant in self.variants]


class _AgainstBaseline(_OneColumn):
    baseline: str

    def pairs(self) -> list[Pair]:
        """Differences in the predicate."""
        return [(cell, self.cell(self.baseline)) for cell in self.cells()]


class AllDifferencesInRange(_AgainstBaseline):
    """Every difference is between ``low`` and ``high`` within ``tolerance``."""

    type: Literal["all_differences_in_range"]
    low: float
    high: float
    tolerance: float = Field(ge=0)


class CountOfDifferences(_AgainstBaseline):
    """Exactly ``count`` of the differences are below, or above, ``threshold``."""

    type: Literal["count_of_differences"]
    operator: Literal["<", ">"]
    threshold: float
    count: int = Field(ge=0)
    out_of: int = Field(gt=0)

    @model_validator(mode="after")
    def _counts_its_variants(self) -> "CountOfDifferences":
        if self.out_of != len(self.variants):
            raise ValueError(f"out_of is {self.out_of}, but {len(self.variants)} variants are listed")
        return self


class Extreme(_OneColumn):
    """``expected`` has the largest (argmax) or smallest (argmin) accuracy."""

    type: Literal["argmax", "argmin"]
    expected: str

    @model_validator(mode="after")
    def _expects_one_of_them(self) -> "Extreme":
        if self.expected not in self.variants:
            raise ValueError(f"expected '{self.expected}' is not among the variants")
        return self

    def pairs(self) -> list[Pair]:
        """The expected variant minus each other one."""
        others = (cell for cell in self.cells() if cell.variant != self.expected)
        return [(self.cell(self.expected), other) for other in others]


class SpreadAtMost(PredicateBase):
    """Largest minus smallest accuracy is at most ``maximum``."""

    type: Literal["spread_at_most"]
    members: tuple[ClaimCell, ...] = Field(min_length=2, alias="cells")
    maximum: float = Field(ge=0)

    @model_validator(mode="after")
    def _of_one_benchmark(self) -> "SpreadAtMost":
        _check_one_benchmark(self.members)
        return self

    def cells(self) -> list[ClaimCell]:
        """Accuracies in the predicate."""
        return list(self.members)

    def pairs(self) -> list[Pair]:
        """All pairs of accuracies."""
        return list(combinations(self.members, 2))


class SetBelowThreshold(_OneColumn):
    """Exactly the ``expected`` variants are below ``threshold`` percent."""

    type: Literal["set_below_threshold"]
    threshold: float
    expected: tuple[str, ...]


class ConstantEquals(PredicateBase):
    """A constant of the design has a value."""

    type: Literal["constant_equals"]
    name: str
    value: Any


def _check_one_benchmark(cells: Iterable[ClaimCell]) -> None:
    """Raise ValueError for accuracies on different test clips, whose difference means nothing."""
    names = list(dict.fromkeys(cell.benchmark for cell in cells))
    if len(names) > 1:
        raise ValueError(f"accuracies on {' and '.join(names)}; a difference is between two of one benchmark")
