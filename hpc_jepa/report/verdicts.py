"""Verdicts on claims, from the numbers as printed and from their intervals.

As printed, a claim is supported if its predicate holds for the values, else contradicted. With uncertainty, the
intervals and the significance of the grid decide (they are not adjusted for the number of claims):

- difference: contradicted if the interval excludes the claimed values, supported if it includes one and the difference
  is significant (or, if the claim allows zero, if it is inside the claimed range), else undecided;
- count or set: supported if the intervals allow no other, contradicted if they do not allow the claimed one;
- largest or smallest: supported if significantly ahead of every other, contradicted if significantly behind any;
- across benchmarks: ``predicate_rules_across``.

An interval excludes zero exactly where the grid calls the difference significant, so the two cannot disagree. Where an
interval with a limit alone would decide, as the test clips of single runs, the verdict is ``undecided`` with the limit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from hpc_jepa.report.claims import Claim
from hpc_jepa.report.evidence import Evidence, Limit
from hpc_jepa.report.predicate_rules import ClaimValues, PredicateOutcome, Verdict, as_printed, outcome_of
from hpc_jepa.report.predicate_rules_across import distinct_variants
from hpc_jepa.report.predicates import ConstantEquals
from hpc_jepa.report.predicates_across import RankCorrelation

Key = TypeVar("Key")
Value = TypeVar("Value")

UNDECIDED = PredicateOutcome("", None, None, "undecided", "undecided")

LIMITED: Mapping[Limit, Verdict] = {
    "one seed": "undecided: one seed",
    "not decided by the looks": "undecided: not decided by the looks",
    "no comparison of the study": "undecided: no comparison of the study",
}


@dataclass(frozen=True)
class ClaimResult:
    """Outcome of a claim on one source. ``missing``: cells that the source lacks. ``caveats``: of its numbers."""

    claim: Claim
    outcome: PredicateOutcome
    missing: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def evaluate_claim(claim: Claim, evidence: Evidence) -> ClaimResult:
    """Evaluate one claim; undecided if a cell is missing."""
    predicate = claim.predicate
    if isinstance(predicate, ConstantEquals):
        return _evaluate_constant(claim, predicate, evidence)
    if isinstance(predicate, RankCorrelation):
        predicate = distinct_variants(predicate, evidence)
    cells, pairs = predicate.cells(), predicate.pairs()
    scores = {cell: evidence.score(cell) for cell in cells}
    differences = {pair: evidence.difference(*pair) for pair in pairs}
    gaps = [str(cell) for cell, score in scores.items() if score is None]
    gaps += [f"{a} minus {b}" for (a, b), known in differences.items() if known is None and not gaps]
    joint = evidence.joint(cells) if isinstance(predicate, RankCorrelation) and not gaps else None
    if isinstance(predicate, RankCorrelation) and joint is None and not gaps:
        gaps = ["a seed that all variants have"]
    if gaps:
        return ClaimResult(claim, UNDECIDED, tuple(gaps))
    values = ClaimValues(_known(scores), _known(differences), joint)
    outcome, certain = outcome_of(predicate, values), outcome_of(predicate, values.certain)
    if outcome.with_uncertainty != certain.with_uncertainty:
        outcome = replace(outcome, with_uncertainty=LIMITED[values.limit])
    return ClaimResult(claim, outcome, caveats=evidence.caveats(cells, pairs))


def _known(values: Mapping[Key, Value | None]) -> dict[Key, Value]:
    return {key: value for key, value in values.items() if value is not None}


def _evaluate_constant(claim: Claim, predicate: ConstantEquals, evidence: Evidence) -> ClaimResult:
    value = evidence.constant(predicate.name)
    if value is None:
        return ClaimResult(claim, UNDECIDED, (predicate.name,))
    verdict = as_printed(value == predicate.value)
    return ClaimResult(claim, PredicateOutcome(str(value), None, None, verdict, verdict))


def count_verdicts(verdicts: Iterable[Verdict]) -> str:
    """Number of each verdict, as text."""
    listed = list(verdicts)
    undecided = [verdict for verdict in listed if verdict.startswith("undecided")]
    reasons = {
        "for want of a second seed": undecided.count("undecided: one seed"),
        "not decided by the looks": undecided.count("undecided: not decided by the looks"),
        "which the study does not compare": undecided.count("undecided: no comparison of the study"),
    }
    named = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    return (
        f"{listed.count('supported')} supported, {listed.count('contradicted')} contradicted, "
        f"{len(undecided)} undecided{f' ({named})' if named else ''}"
    )
