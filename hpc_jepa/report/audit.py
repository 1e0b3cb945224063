"""Claims judged on every source of numbers, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpc_jepa.report.claims import Claim
from hpc_jepa.report.verdicts import ClaimResult, Evidence, Verdict, count_verdicts, evaluate_claim


@dataclass(frozen=True)
class Audit:
    """All claims on one source. Published numbers are judged as they are printed; runs with their uncertainty."""

    source: str
    as_printed: bool
    results: tuple[ClaimResult, ...]

    def verdict(self, judgement: ClaimResult) -> Verdict:
        """Which of the two verdicts counts for this source."""
        return judgement.outcome.as_printed if self.as_printed else judgement.outcome.with_uncertainty

    @property
    def decided(self) -> bool:
        """Whether the source holds the cells of any claim; constants of the design are no evidence."""
        return any(judgement.claim.predicate.cells() and not judgement.missing for judgement in self.results)

    @property
    def sentence(self) -> str:
        """How the verdicts fall."""
        count = len(self.results)
        verdicts = count_verdicts(self.verdict(judgement) for judgement in self.results)
        if not self.as_printed:
            return f"{count} claims on {self.source}, with their uncertainty: {verdicts}."
        noise = count_verdicts(judgement.outcome.with_uncertainty for judgement in self.results)
        return (
            f"{count} claims on the {self.source}: as printed {verdicts}; once the choice of test clips counts "
            f"{noise}. What seeds would change cannot be told: every cell is one run."
        )


@dataclass(frozen=True)
class AuditLine:
    """One claim on all sources, in the order of the audits."""

    claim: Claim
    results: tuple[ClaimResult, ...]

    @property
    def known(self) -> bool:
        """Whether any source holds all that the claim speaks of."""
        return any(not judgement.missing for judgement in self.results)


def audit_claims(claims: Sequence[Claim], evidence: Evidence, *, as_printed: bool) -> Audit:
    """Judge all claims on one source."""
    return Audit(evidence.name, as_printed, tuple(evaluate_claim(claim, evidence) for claim in claims))


def audit_lines(audits: Sequence[Audit]) -> list[AuditLine]:
    """Claims as rows."""
    columns = zip(*(audit_claims.results for audit_claims in audits), strict=True)
    return [AuditLine(judgements[0].claim, judgements) for judgements in columns]


def format_published(published: float | str | tuple[float, float] | None) -> str:
    """A published figure as one cell of a table, empty where none was published."""
    if published is None:
        return ""
    if isinstance(published, tuple):
        return f"{published[0]:g} to {published[1]:g}"
    return published if isinstance(published, str) else f"{published:g}"
