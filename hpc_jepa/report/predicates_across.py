"""Predicates of claims on accuracies of several benchmarks."""

from typing import Literal

from pydantic import Field, model_validator

from hpc_jepa.report.predicates import ClaimCell, Pair, PredicateBase

FEWEST_TO_CORRELATE = 5
"""With fewer variants no rank correlation is certain."""


class _Across(PredicateBase):
    """``benchmarks`` of one regime."""

    regime: str
    benchmarks: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct_benchmarks(self) -> "_Across":
        if len(set(self.benchmarks)) < len(self.benchmarks):
            raise ValueError("a benchmark is listed twice")
        return self

    def cell(self, variant: str, benchmark: str) -> ClaimCell:
        """One accuracy."""
        return ClaimCell(regime=self.regime, variant=variant, benchmark=benchmark)

    def row(self, variant: str) -> list[ClaimCell]:
        """Accuracies of a variant, in the order of the benchmarks."""
        return [self.cell(variant, benchmark) for benchmark in self.benchmarks]

    def against(self, variant: str, other: str) -> list[Pair]:
        """Differences of two variants, in the order of the benchmarks."""
        return list(zip(self.row(variant), self.row(other), strict=True))


class _OneVariant(_Across):
    """``variant`` against ``baseline`` on every benchmark."""

    variant: str
    baseline: str

    def cells(self) -> list[ClaimCell]:
        """Accuracies in the predicate."""
        return [*self.row(self.variant), *self.row(self.baseline)]

    def pairs(self) -> list[Pair]:
        """Differences in the predicate."""
        return self.against(self.variant, self.baseline)


class AllOneSign(_OneVariant):
    """The variant is above (all_above) or below (all_below) the baseline on every benchmark."""

    type: Literal["all_above", "all_below"]


class SumOfDifferences(_OneVariant):
    """The differences on all benchmarks add up to ``value`` points within ``tolerance``."""

    type: Literal["sum_of_differences"]
    value: float
    tolerance: float = Field(ge=0)


class _OneOfSeveral(_Across):
    """``expected`` among ``variants``."""

    variants: tuple[str, ...] = Field(min_length=2)
    expected: str

    @model_validator(mode="after")
    def _expects_one_of_them(self) -> "_OneOfSeveral":
        if self.expected not in self.variants:
            raise ValueError(f"expected '{self.expected}' is not among the variants")
        return self

    @property
    def others(self) -> list[str]:
        """All variants but the expected one."""
        return [variant for variant in self.variants if variant != self.expected]

    def cells(self) -> list[ClaimCell]:
        """Accuracies in the predicate."""
        return [cell for variant in self.variants for cell in self.row(variant)]


class NotDominated(_OneOfSeveral):
    """``expected`` is on the Pareto front: no other variant is at least as good on all benchmarks and better on one."""

    type: Literal["not_dominated"]

    def pairs(self) -> list[Pair]:
        """The expected variant minus each other one."""
        return [pair for other in self.others for pair in self.against(self.expected, other)]


class MostBalanced(_OneOfSeveral):
    """The worst of its differences to the baseline is better for ``expected`` than for any other variant."""

    type: Literal["most_balanced"]
    baseline: str

    @model_validator(mode="after")
    def _leaves_out_the_baseline(self) -> "MostBalanced":
        if self.baseline in self.variants:
            raise ValueError(f"the baseline '{self.baseline}' is among the variants, which are compared with it")
        return self

    def pairs(self) -> list[Pair]:
        """Each variant minus the baseline."""
        return [pair for variant in self.variants for pair in self.against(variant, self.baseline)]


class RankCorrelation(_Across):
    """Spearman's correlation over ``variants`` between two benchmarks is below, or above, ``threshold``."""

    type: Literal["rank_correlation"]
    benchmarks: tuple[str, str]
    variants: tuple[str, ...] = Field(min_length=FEWEST_TO_CORRELATE)
    operator: Literal["<", ">"]
    threshold: float = Field(0.0, ge=-1, le=1)

    def cells(self) -> list[ClaimCell]:
        """Accuracies in the predicate, variant by variant."""
        return [cell for variant in self.variants for cell in self.row(variant)]
