"""The content of a report, collected before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.stats.paired import Correct
from hpc_jepa.report.audit import Audit
from hpc_jepa.report.claims import ClaimCell
from hpc_jepa.report.export_tables import ResultTable, result_tables
from hpc_jepa.report.gaps import find_gaps
from hpc_jepa.report.headlines import SemanticsComparison, compare_semantics, write_headlines
from hpc_jepa.report.predictions import check_predictions
from hpc_jepa.report.published_results import LIMITATIONS, PublishedStudy, other_probes, published_grids
from hpc_jepa.report.result_grid import ResultGrid
from hpc_jepa.report.results import ResultRow, collect_results, panel_of
from hpc_jepa.report.robustness_table import RobustnessRow, robustness_table
from hpc_jepa.report.run_report import FoundRuns, RunReport, study_descriptions
from hpc_jepa.report.study_evidence import BASELINE, study_grids
from hpc_jepa.report.verdicts import Interval


@dataclass(frozen=True)
class ReportData:
    """Content of the page and the tables. ``limitations`` and ``other_probes`` are those of the published numbers."""

    descriptions: Sequence[str] = ()
    headlines: Sequence[str] = ()
    grids: Sequence[ResultGrid] = ()
    audits: Sequence[Audit] = ()
    limitations: Sequence[str] = ()
    other_probes: Sequence[tuple[ClaimCell, Interval]] = ()
    tables: Sequence[ResultTable] = ()
    rows: Sequence[ResultRow] = ()
    correct: Mapping[ResultRow, Correct] = field(default_factory=dict)
    comparisons: Sequence[SemanticsComparison] = ()
    robustness: Sequence[RobustnessRow] = ()
    gaps: Sequence[str] = ()
    runs: Sequence[RunReport] = ()


def collect_run_data(found: FoundRuns, places: Sequence[Path]) -> ReportData:
    """Content from runs, without audits.

    Raises InputError if no run was evaluated, DataError if all evaluations are damaged.
    """
    runs, results = found.runs, collect_results(found.runs)
    checked = check_predictions(results)
    rows, correct = list(checked.correct), checked.correct
    damaged = [f"damaged, left out: {line}" for line in (*found.damaged, *checked.damaged)]
    if not rows and damaged:
        raise DataError(f"{places[0]}: no sound evaluation to report; {damaged[0]}")
    if not rows:
        raise InputError(f"{places[0]}: no run was evaluated yet; run 'hpc-jepa evaluate RUN --benchmark NAME' first")
    attentive = {panel_of(row) for row in rows if results[row].result.pooling == "tokens"}
    comparisons = compare_semantics(correct)
    return ReportData(
        descriptions=study_descriptions(runs),
        headlines=write_headlines(rows, attentive, comparisons),
        grids=study_grids(correct, runs),
        tables=result_tables(runs, rows),
        rows=rows,
        correct=correct,
        comparisons=comparisons,
        robustness=robustness_table(runs),
        gaps=[*damaged, *find_gaps(runs, rows)],
        runs=runs,
    )


def with_audits(data: ReportData, audits: Sequence[Audit]) -> ReportData:
    """Add audits of runs, and a headline for each that decides any claim."""
    sentences = (audit.sentence for audit in audits if audit.decided)
    return replace(data, audits=audits, headlines=(*data.headlines, *sentences))


def with_published(data: ReportData, published: PublishedStudy, audit: Audit) -> ReportData:
    """Put the published numbers before those of the runs."""
    grids = published_grids(published)
    contrasts = [contrast for grid in grids for column in grid.columns for _, contrast in grid.contrasts(column)]
    significant = [contrast for contrast in contrasts if contrast.significant]
    gains = sum(contrast.points > 0 for contrast in significant)
    sentence = (
        f"Published numbers: {len(significant)} of {len(contrasts)} differences to the baselines are significant after "
        f"Holm's correction ({gains} gains, {len(significant) - gains} losses). The tests cover the sampling of test "
        "clips only; each difference is between two single runs."
    )
    return replace(
        data,
        headlines=(sentence, *_seed_variation(grids), audit.sentence, *data.headlines),
        grids=(*grids, *data.grids),
        audits=(audit, *data.audits),
        limitations=LIMITATIONS,
        other_probes=other_probes(published),
    )


def _seed_variation(grids: Sequence[ResultGrid]) -> list[str]:
    """The difference between two baseline seeds, as a scale for the other differences of its grid."""
    sentences = []
    for grid in grids:
        baselines = [row for row in grid.rows if row.startswith(BASELINE) and row != grid.reference]
        contrasts = [(column, row, contrast) for column in grid.columns for row, contrast in grid.contrasts(column)]
        floors = {column: abs(contrast.points) for column, row, contrast in contrasts if row in baselines}
        if not floors:
            continue
        significant = [
            (abs(contrast.points), floors[column])
            for column, row, contrast in contrasts
            if column in floors and row not in baselines and contrast.significant
        ]
        floor = " and ".join(f"{points:.2f} points on {column}" for column, points in floors.items())
        no_larger = sum(points <= limit for points, limit in significant)
        sentences.append(
            f"Another seed of the baseline alone makes a difference of {floor} ({grid.title}): {no_larger} of the "
            f"{len(significant)} significant differences of objectives there {'is' if no_larger == 1 else 'are'} no "
            "larger."
        )
    return sentences
