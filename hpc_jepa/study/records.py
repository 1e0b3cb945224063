"""Which records of its evaluations a cell has."""

import json
from pathlib import Path
from typing import Any

from hpc_jepa.errors import DataError
from hpc_jepa.study.grid import CellEvaluation, StudyCell


def is_evaluated(cell: StudyCell) -> bool:
    """Whether every record is there, of the last step and of the benchmark as it is now."""
    return all(_is_recorded(cell, evaluation) for evaluation in cell.evaluations)


def evaluated_on(cell: StudyCell) -> list[str]:
    """Names of the evaluations that are complete."""
    complete = [evaluation for evaluation in cell.evaluations if _is_recorded(cell, evaluation)]
    return [f"{evaluation.benchmark.name}.{evaluation.protocol}" for evaluation in complete]


def _is_recorded(cell: StudyCell, evaluation: CellEvaluation) -> bool:
    path = cell.folder / "eval" / f"{evaluation.benchmark.name}.{evaluation.protocol}.json"
    if not path.exists():
        return False
    record = _read(path)
    held = {result["weights"] for result in record["results"]}
    return (
        held.issuperset(evaluation.weights)
        and record["run"]["step"] == cell.config.schedule.steps
        and record["protocol_fingerprint"] == evaluation.fingerprint
    )


def _read(path: Path) -> dict[str, Any]:
    """Only what is asked for here; the record's own class checks all of it, which takes time for a thousand."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: damaged record ({error}); delete it, 'study submit' evaluates again") from error
    return record
