"""Claims judged on every source of numbers, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpc_jepa.report.claims import Claim
from hpc_jepa.report.verdicts import Evidence, Judgement, Verdict, judge, tally


@dataclass(frozen=True)
class Audit:
    """All claims on one source. Published numbers are judged as they are printed; runs with their uncertainty."""

    source: str
    as_printed: bool
    judgements: tuple[Judgement, ...]

    def verdict(self, judgement: Judgement) -> Verdict:
        """Which of the two verdicts counts for this source."""
        return judgement.finding.as_printed if self.as_printed else judgement.finding.with_uncertainty

    @property
    def decided(self) -> bool:
        """Whether the source holds the cells of any claim; constants of the design are no evidence."""
        return any(judgement.claim.predicate.cells() and not judgement.missing for judgement in self.judgements)

    @property
    def sentence(self) -> str:
        """How the verdicts fall."""
        count = len(self.judgements)
        verdicts = tally(self.verdict(judgement) for judgement in self.judgements)
        if not self.as_printed:
            return f"{count} claims on {self.source}, with their uncertainty: {verdicts}."
        noise = tally(judgement.finding.with_uncertainty for judgement in self.judgements)
        return (
            f"{count} claims on the {self.source}: as printed {verdicts}; once the choice of test clips counts "
            f"{noise}. What seeds would change cannot be told: every cell is one run."
        )


@dataclass(frozen=True)
class AuditLine:
    """One claim on all sources, in the order of the audits."""

    claim: Claim
    judgements: tuple[Judgement, ...]

    @property
    def known(self) -> bool:
        """Whether any source holds all that the claim speaks of."""
        return any(not judgement.missing for judgement in self.judgements)


def audit(claims: Sequence[Claim], evidence: Evidence, *, as_printed: bool) -> Audit:
    """Judge all claims on one source."""
    return Audit(evidence.name, as_printed, tuple(judge(claim, evidence) for claim in claims))


def side_by_side(audits: Sequence[Audit]) -> list[AuditLine]:
    """Claims as rows."""
    columns = zip(*(audit.judgements for audit in audits), strict=True)
    return [AuditLine(judgements[0].claim, judgements) for judgements in columns]


def figure(published: float | str | tuple[float, float] | None) -> str:
    """A published figure as one cell of a table, empty where none was published."""
    if published is None:
        return ""
    if isinstance(published, tuple):
        return f"{published[0]:g} to {published[1]:g}"
    return published if isinstance(published, str) else f"{published:g}"
