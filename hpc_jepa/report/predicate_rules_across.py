"""Rules of the predicates on several benchmarks.

- all above or below: contradicted if significantly on the other side on one benchmark, supported if significantly on
  this side on all;
- sum: the sums of the ends of the intervals bound the sum, as if all errors had the same sign;
- not dominated: supported if significantly better than each other variant on some benchmark, contradicted if
  significantly worse than one of them on all;
- most balanced: the worst difference to the baseline is between the smallest lower and the smallest upper end of the
  intervals; supported if that of each other variant is surely worse, contradicted if that of one is surely better;
- rank correlation: by its interval over the choice of variants, seeds and test clips (``rank_correlation``).
"""

from collections.abc import Sequence

import numpy as np

from hpc_jepa.evaluation.stats.rank_correlation import rank_correlation
from hpc_jepa.report.evidence import Evidence, Interval
from hpc_jepa.report.predicate_rules import (
    ClaimValues,
    PredicateOutcome,
    as_printed,
    in_range,
    outcome_of,
    with_sign,
    with_uncertainty,
)
from hpc_jepa.report.predicates import Pair
from hpc_jepa.report.predicates_across import (
    AllOneSign,
    MostBalanced,
    NotDominated,
    RankCorrelation,
    SumOfDifferences,
)


@outcome_of.register
def _(predicate: AllOneSign, values: ClaimValues) -> PredicateOutcome:
    found = _of_pairs(values, predicate.pairs())
    sides = [with_sign(difference, 1 if predicate.type == "all_above" else -1) for difference in found]
    judged = with_uncertainty(all(side.above_zero for side in sides), any(side.below_zero for side in sides))
    bounds = min(difference.low for difference in found), max(difference.high for difference in found)
    return PredicateOutcome(
        _by_benchmark(predicate.benchmarks, found), *bounds, as_printed(all(side.value > 0 for side in sides)), judged
    )


@outcome_of.register
def _(predicate: SumOfDifferences, values: ClaimValues) -> PredicateOutcome:
    terms = _of_pairs(values, predicate.pairs())
    total, low, high = (sum(getattr(term, name) for term in terms) for name in ("value", "low", "high"))
    claimed = predicate.value - predicate.tolerance, predicate.value + predicate.tolerance
    verdicts = in_range([Interval(round(total, 2), low, high)], *claimed)
    signed = "".join(f" {'+' if term.value >= 0 else '-'} {abs(term.value):.2f}" for term in terms).removeprefix(" + ")
    names = ", ".join(predicate.benchmarks)
    return PredicateOutcome(f"sum {total:.2f} = {signed.lstrip()} ({names})", low, high, *verdicts)


@outcome_of.register
def _(predicate: NotDominated, values: ClaimValues) -> PredicateOutcome:
    against = {other: _of_pairs(values, predicate.against(predicate.expected, other)) for other in predicate.others}
    dominating = [name for name, margins in against.items() if _all_behind(margins)]
    ahead = [any(margin.above_zero for margin in margins) for margins in against.values()]
    behind = [all(margin.below_zero for margin in margins) for margins in against.values()]
    computed = f"dominated by {', '.join(dominating)}" if dominating else "dominated by none"
    return PredicateOutcome(
        computed,
        sum(behind),
        len(ahead) - sum(ahead),
        as_printed(not dominating),
        with_uncertainty(all(ahead), any(behind)),
    )


@outcome_of.register
def _(predicate: MostBalanced, values: ClaimValues) -> PredicateOutcome:
    worst = {
        variant: _worst(_of_pairs(values, predicate.against(variant, predicate.baseline)))
        for variant in predicate.variants
    }
    expected, others = worst[predicate.expected], [worst[variant] for variant in predicate.others]
    judged = with_uncertainty(
        all(expected.low > other.high for other in others), any(other.low > expected.high for other in others)
    )
    best = max(worst, key=lambda variant: worst[variant].value)
    differences = _of_pairs(values, predicate.against(best, predicate.baseline))
    computed = f"{best} ({_by_benchmark(predicate.benchmarks, differences)})"
    return PredicateOutcome(computed, expected.low, expected.high, as_printed(best == predicate.expected), judged)


@outcome_of.register
def _(predicate: RankCorrelation, values: ClaimValues) -> PredicateOutcome:
    sign = 1 if predicate.operator == ">" else -1
    if values.joint is None:  # nothing is certain about the order of single runs
        return PredicateOutcome("", None, None, "undecided", "undecided")
    shape = (len(predicate.variants), len(predicate.benchmarks))
    estimate = rank_correlation(np.asarray(values.joint.values).reshape(shape), values.joint.draws.reshape(-1, *shape))
    value, low, high = (end - predicate.threshold for end in (estimate.value, estimate.low, estimate.high))
    margin = with_sign(Interval(value, low, high), sign)
    judged = with_uncertainty(margin.low > 0, margin.high < 0)
    computed = f"rank correlation {estimate.value:.2f} over {len(predicate.variants)} variants"
    return PredicateOutcome(computed, estimate.low, estimate.high, as_printed(margin.value > 0), judged)


def distinct_variants(predicate: RankCorrelation, evidence: Evidence) -> RankCorrelation:
    """The predicate without variants that are another one in this source, as seeds are in a study."""
    first: dict[object, str] = {}
    for variant in predicate.variants:
        first.setdefault(evidence.same(predicate.cell(variant, predicate.benchmarks[0])), variant)
    return predicate.model_copy(update={"variants": tuple(first.values())})


def _of_pairs(values: ClaimValues, pairs: Sequence[Pair]) -> list[Interval]:
    return [values.differences[pair] for pair in pairs]


def _by_benchmark(benchmarks: Sequence[str], differences: Sequence[Interval]) -> str:
    return ", ".join(f"{name} {found.value:+.2f}" for name, found in zip(benchmarks, differences, strict=True))


def _all_behind(margins: Sequence[Interval]) -> bool:
    """Whether the values are behind on one benchmark and ahead on none."""
    return all(margin.value <= 0 for margin in margins) and any(margin.value < 0 for margin in margins)


def _worst(differences: Sequence[Interval]) -> Interval:
    """The smallest of several differences, and its bounds."""
    value, low, high = (min(getattr(found, name) for found in differences) for name in ("value", "low", "high"))
    return Interval(value, low, high)
