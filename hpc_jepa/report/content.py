"""All that a report says, gathered before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.statistics import Correct
from hpc_jepa.report.audit import Audit
from hpc_jepa.report.claims import Cell
from hpc_jepa.report.corruption import Robustness, robustness_table
from hpc_jepa.report.findings import SemanticsComparison, headlines, semantics_comparisons
from hpc_jepa.report.grid import Grid
from hpc_jepa.report.missing import missing
from hpc_jepa.report.paper import LIMITS, Paper, other_results, paper_grids
from hpc_jepa.report.provenance import Origin, provenance
from hpc_jepa.report.replication import BASELINE, run_grids
from hpc_jepa.report.results import Row, panel, sources
from hpc_jepa.report.runs import Run, abouts
from hpc_jepa.report.samples import judged
from hpc_jepa.report.table import ResultTable, tables
from hpc_jepa.report.verdicts import Interval


@dataclass(frozen=True)
class Content:
    """All that the page says. ``limits`` and ``probes`` belong to the published numbers, most else to the runs."""

    abouts: Sequence[str] = ()
    headlines: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    audits: Sequence[Audit] = ()
    limits: Sequence[str] = ()
    probes: Sequence[tuple[Cell, Interval]] = ()
    tables: Sequence[ResultTable] = ()
    rows: Sequence[Row] = ()
    judged: Mapping[Row, Correct] = field(default_factory=dict)
    comparisons: Sequence[SemanticsComparison] = ()
    robustness: Sequence[Robustness] = ()
    missing: Sequence[str] = ()
    provenance: Sequence[Origin] = ()
    runs: Sequence[Run] = ()


def of_runs(runs: Sequence[Run], places: Sequence[Path]) -> Content:
    """What runs say. Raises InputError where none was evaluated."""
    found = sources(runs)
    if not found:
        raise InputError(f"{places[0]}: no run was evaluated yet; run 'hpc-jepa evaluate RUN --benchmark NAME' first")
    rows, correct = list(found), judged(found)
    attentive = {panel(row) for row, source in found.items() if source.result.pooling == "tokens"}
    comparisons = semantics_comparisons(correct)
    return Content(
        abouts=abouts(runs),
        headlines=headlines(rows, attentive, comparisons),
        grids=run_grids(correct, runs),
        tables=tables(runs, rows),
        rows=rows,
        judged=correct,
        comparisons=comparisons,
        robustness=robustness_table(runs),
        missing=missing(runs, rows),
        provenance=provenance(runs),
        runs=runs,
    )


def of_paper(paper: Paper, audit: Audit) -> Content:
    """What published numbers say, and what they cannot."""
    grids = paper_grids(paper)
    found = [contrast for grid in grids for column in grid.columns for _, contrast in grid.contrasts(column)]
    beyond = [contrast for contrast in found if contrast.significant]
    gains = sum(contrast.points > 0 for contrast in beyond)
    sentence = (
        f"Published numbers: {len(beyond)} of {len(found)} differences to the baselines are beyond the choice of test "
        f"clips after Holm's correction ({gains} gains, {len(beyond) - gains} losses); each compares two single runs."
    )
    return Content(
        headlines=(sentence, *_seeds(grids), audit.sentence), grids=grids, limits=LIMITS, probes=other_results(paper)
    )


def _seeds(grids: Sequence[Grid]) -> list[str]:
    """What a change of the seed alone does, wherever a baseline was trained from another one."""
    sentences = []
    for grid in grids:
        others = [row for row in grid.rows if row.startswith(BASELINE) and row != grid.reference]
        found = [(column, row, contrast) for column in grid.columns for row, contrast in grid.contrasts(column)]
        floors = {column: abs(contrast.points) for column, row, contrast in found if row in others}
        beyond = [
            (abs(contrast.points), floors[column])
            for column, row, contrast in found
            if column in floors and row not in others and contrast.significant
        ]
        if floors:
            floor = " and ".join(f"{points:.2f} points on {column}" for column, points in floors.items())
            within = sum(points <= limit for points, limit in beyond)
            are = "is" if within == 1 else "are"
            sentences.append(
                f"Another seed of the baseline alone makes a difference of {floor} ({grid.title}): {within} of "
                f"the {len(beyond)} differences of objectives there that are beyond chance {are} no larger."
            )
    return sentences
