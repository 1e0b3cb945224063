"""Claims as data: each is a statement and a predicate on accuracies."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hpc_jepa.config import loading
from hpc_jepa.config.strict import Strict
from hpc_jepa.report.predicates import (
    AllDifferencesInRange,
    ConstantEquals,
    CountOfDifferences,
    DifferenceEquals,
    Extreme,
    SetBelowThreshold,
    SpreadAtMost,
)
from hpc_jepa.report.predicates_across import (
    AllOneSign,
    MostBalanced,
    NotDominated,
    RankCorrelation,
    SumOfDifferences,
)

PUBLISHED_CLAIMS = Path(__file__).parent / "published" / "published_claims.yaml"

Predicate = Annotated[
    DifferenceEquals
    | AllDifferencesInRange
    | CountOfDifferences
    | Extreme
    | SpreadAtMost
    | SetBelowThreshold
    | ConstantEquals
    | AllOneSign
    | SumOfDifferences
    | NotDominated
    | MostBalanced
    | RankCorrelation,
    Field(discriminator="type"),
]


class Claim(Strict):
    """A statement with its predicate.

    ``computed`` and ``supported``: from the reanalysis of the publication, None if its numbers do not decide.
    ``notes``: on the runs of the publication, so they are shown beside its numbers alone.
    """

    id: str
    statement: str
    predicate: Predicate
    source: Literal["paper", "derived", "reanalysis", "own"] = "own"
    published: float | str | tuple[float, float] | None = Field(None, description="the number in the publication")
    computed: Any = None
    supported: bool | None = None
    notes: str = ""


class ClaimFile(Strict):
    """A file of claims, with metadata."""

    meta: dict[str, Any] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct_ids(self) -> "ClaimFile":
        repeated = _repeated(claim.id for claim in self.claims)
        if repeated:
            raise ValueError(f"id '{repeated[0]}' belongs to several claims; give each its own")
        return self


def read_claims(path: Path = PUBLISHED_CLAIMS) -> Sequence[Claim]:
    """Claims of a YAML file. Raises InputError naming file, line and key."""
    return loading.read_config(ClaimFile, [path]).claims


def _repeated(names: Iterable[str]) -> list[str]:
    listed = list(names)
    return sorted({name for name in listed if listed.count(name) > 1})
