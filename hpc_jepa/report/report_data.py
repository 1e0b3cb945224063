"""All that a report says, gathered before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.paired import Correct
from hpc_jepa.report.audit import Audit
from hpc_jepa.report.claims import ClaimCell
from hpc_jepa.report.gaps import find_gaps
from hpc_jepa.report.headlines import SemanticsComparison, compare_semantics, write_headlines
from hpc_jepa.report.predictions import correct_predictions
from hpc_jepa.report.provenance import RecordOrigin, record_origins
from hpc_jepa.report.published_results import LIMITATIONS, PublishedStudy, other_probes, published_grids
from hpc_jepa.report.result_grid import ResultGrid
from hpc_jepa.report.results import ResultRow, collect_results, panel_of
from hpc_jepa.report.robustness_table import RobustnessRow, robustness_table
from hpc_jepa.report.run_report import RunReport, study_descriptions
from hpc_jepa.report.study_evidence import BASELINE, study_grids
from hpc_jepa.report.table import ResultTable, result_tables
from hpc_jepa.report.verdicts import Interval


@dataclass(frozen=True)
class ReportData:
    """All that the page says. ``limits`` and ``probes`` belong to the published numbers, most else to the runs."""

    abouts: Sequence[str] = ()
    headlines: Sequence[str] = ()
    grids: Sequence[ResultGrid] = ()
    audits: Sequence[Audit] = ()
    limits: Sequence[str] = ()
    probes: Sequence[tuple[ClaimCell, Interval]] = ()
    tables: Sequence[ResultTable] = ()
    rows: Sequence[ResultRow] = ()
    correct: Mapping[ResultRow, Correct] = field(default_factory=dict)
    comparisons: Sequence[SemanticsComparison] = ()
    robustness: Sequence[RobustnessRow] = ()
    missing: Sequence[str] = ()
    provenance: Sequence[RecordOrigin] = ()
    runs: Sequence[RunReport] = ()


def collect_run_data(runs: Sequence[RunReport], places: Sequence[Path]) -> ReportData:
    """What runs say. Raises InputError where none was evaluated."""
    found = collect_results(runs)
    if not found:
        raise InputError(f"{places[0]}: no run was evaluated yet; run 'hpc-jepa evaluate RUN --benchmark NAME' first")
    rows, correct = list(found), correct_predictions(found)
    attentive = {panel_of(row) for row, source in found.items() if source.result.pooling == "tokens"}
    comparisons = compare_semantics(correct)
    return ReportData(
        abouts=study_descriptions(runs),
        headlines=write_headlines(rows, attentive, comparisons),
        grids=study_grids(correct, runs),
        tables=result_tables(runs, rows),
        rows=rows,
        correct=correct,
        comparisons=comparisons,
        robustness=robustness_table(runs),
        missing=find_gaps(runs, rows),
        provenance=record_origins(runs),
        runs=runs,
    )


def collect_published_data(paper: PublishedStudy, audit: Audit) -> ReportData:
    """What published numbers say, and what they cannot."""
    grids = published_grids(paper)
    found = [contrast for grid in grids for column in grid.columns for _, contrast in grid.contrasts(column)]
    beyond = [contrast for contrast in found if contrast.significant]
    gains = sum(contrast.points > 0 for contrast in beyond)
    sentence = (
        f"Published numbers: {len(beyond)} of {len(found)} differences to the baselines are beyond the choice of test "
        f"clips after Holm's correction ({gains} gains, {len(beyond) - gains} losses); each compares two single runs."
    )
    return ReportData(
        headlines=(sentence, *_seeds(grids), audit.sentence),
        grids=grids,
        limits=LIMITATIONS,
        probes=other_probes(paper),
    )


def _seeds(grids: Sequence[ResultGrid]) -> list[str]:
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
