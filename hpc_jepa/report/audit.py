"""Audit of claims: the verdict on every claim from each source of numbers, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpc_jepa.report.claims import Claim
from hpc_jepa.report.evidence import Evidence
from hpc_jepa.report.predicate_rules import Verdict
from hpc_jepa.report.verdicts import ClaimResult, count_verdicts, evaluate_claim


@dataclass(frozen=True)
class Audit:
    """Results of all claims on one source: published numbers as printed, runs with their uncertainty."""

    source: str
    as_printed: bool
    results: tuple[ClaimResult, ...]

    def verdict(self, result: ClaimResult) -> Verdict:
        """The one of both verdicts that counts for this source."""
        return result.outcome.as_printed if self.as_printed else result.outcome.with_uncertainty

    def notes(self, result: ClaimResult) -> str:
        """The notes on a claim, which are about the runs of the publication and no others."""
        return result.claim.notes if self.as_printed else ""

    @property
    def decided(self) -> bool:
        """Whether the source has all cells of any claim. Constants of the design do not count."""
        return any(result.claim.predicate.cells() and not result.missing for result in self.results)

    @property
    def sentence(self) -> str:
        """Number of claims by verdict."""
        count = len(self.results)
        verdicts = count_verdicts(self.verdict(result) for result in self.results)
        if not self.as_printed:
            return f"{count} claims on {self.source}, with uncertainty: {verdicts}."
        uncertain = count_verdicts(result.outcome.with_uncertainty for result in self.results)
        return (
            f"{count} claims on the {self.source}: as printed, {verdicts}; with the sampling of test clips taken into "
            f"account, {uncertain}. The variation between seeds is unknown, because every cell is a single run."
        )


@dataclass(frozen=True)
class AuditLine:
    """The results of one claim, in the order of the audits."""

    claim: Claim
    results: tuple[ClaimResult, ...]

    @property
    def known(self) -> bool:
        """Whether any source has all cells of the claim."""
        return any(not result.missing for result in self.results)


def audit_claims(claims: Sequence[Claim], evidence: Evidence, *, as_printed: bool) -> Audit:
    """Evaluate all claims on one source."""
    return Audit(evidence.name, as_printed, tuple(evaluate_claim(claim, evidence) for claim in claims))


def audit_lines(audits: Sequence[Audit]) -> list[AuditLine]:
    """One line per claim."""
    columns = zip(*(audit.results for audit in audits), strict=True)
    return [AuditLine(results[0].claim, results) for results in columns]


def format_published(published: float | str | tuple[float, float] | None) -> str:
    """A published number or range as text, empty if nothing was published."""
    if published is None:
        return ""
    if isinstance(published, tuple):
        return f"{published[0]:g} to {published[1]:g}"
    return published if isinstance(published, str) else f"{published:g}"
