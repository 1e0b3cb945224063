"""Evaluation records of a run, as far as a study and a table of results need them.

Reads the keys below and checks nothing else: ``evaluation/record.py`` has the full schema, which takes seconds to check
for the records of a large study.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from hpc_jepa.config.benchmark import current_protocol
from hpc_jepa.config.semantics import semantics_name
from hpc_jepa.io.retry import read_bytes
from hpc_jepa.io.validation import parse_json

RUN_COLUMNS = ("study", "regime", "variant", "semantics", "seed", "step")


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class EvaluatedRun(_Open):
    """The run a record is of, after ``step`` optimizer steps."""

    step: int
    semantics: str | None = None
    switches: dict[str, bool | str] = {}


class _Candidate(_Open):
    """Hyperparameters that were tried, and their accuracy on validation clips, if there were any."""

    validation: float | None = None


class ResultSummary(_Open):
    """One result, for one set of weights."""

    weights: str
    probe: str = ""
    metric: str = ""
    value: float | None = None
    candidates: tuple[_Candidate, ...] = ()

    @property
    def score(self) -> float | None:
        """A figure on the test split that is higher for a better result: accuracy, R² of a number."""
        r2 = (self.model_extra or {}).get("r2")
        return float(r2) if isinstance(r2, float) else self.value

    @property
    def mean_class_accuracy(self) -> float | None:
        """Mean over the classes of the accuracy on the test split, None if the record has none."""
        found = (self.model_extra or {}).get("mean_class_accuracy")
        return float(found) if isinstance(found, int | float) else None

    @property
    def validation(self) -> float | None:
        """Result of the chosen hyperparameters on validation clips, None without."""
        return max((each.validation for each in self.candidates if each.validation is not None), default=None)


class RecordSummary(_Open):
    """One evaluation record."""

    benchmark: str = ""
    protocol: Annotated[str, BeforeValidator(current_protocol)] = ""
    protocol_fingerprint: str
    decides: str | None = None
    run: EvaluatedRun
    results: tuple[ResultSummary, ...]

    def rows(self, task: str) -> Iterator[dict[str, Any]]:
        """One flat row per result: keys of the run, then scalars of the result."""
        run = self.run.model_dump()
        if self.run.semantics is not None:
            run["semantics"] = semantics_name(self.run.semantics, self.run.switches)
        head = {"task": task, "benchmark": self.benchmark, "protocol": self.protocol}
        head |= {name: run[name] for name in RUN_COLUMNS if name in run}
        for result in self.results:
            scalars = {key: x for key, x in result.model_dump().items() if not isinstance(x, dict | list | tuple)}
            yield {**head, **scalars}


def read_summary(path: Path) -> RecordSummary:
    """The record in a file. Raises DataError if it is damaged."""
    return parse_json(RecordSummary, read_bytes(path), path, "delete it, 'hpc-jepa study submit' evaluates again")
