"""The content of a report, collected before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.stats.simultaneous import holm
from hpc_jepa.report.answer_text import answer_sentences
from hpc_jepa.report.audit import Audit
from hpc_jepa.report.compared_rows import compared_rows
from hpc_jepa.report.comparisons import StudyScores, collect_scores
from hpc_jepa.report.corruption_answer import CorruptionSummary, corruption_summaries
from hpc_jepa.report.deciding import deciding_columns, deciding_metrics
from hpc_jepa.report.evidence import Interval
from hpc_jepa.report.export_tables import ResultTable, result_tables
from hpc_jepa.report.factorial import FactorialDesign, factorial_designs, incomplete_designs
from hpc_jepa.report.gaps import find_gaps
from hpc_jepa.report.headlines import write_headlines
from hpc_jepa.report.looks import judge_by_looks, sequential_findings, sequential_studies
from hpc_jepa.report.over_steps import StepSeries, step_series
from hpc_jepa.report.predicates import ClaimCell
from hpc_jepa.report.predictions import check_predictions, split_by_steps
from hpc_jepa.report.published_results import LIMITATIONS, PublishedStudy, other_probes, published_grids
from hpc_jepa.report.questions import Answer, answer_questions, judge_by_questions, read_studies
from hpc_jepa.report.result_grid import SIGNIFICANCE, ResultGrid
from hpc_jepa.report.results import ResultRow, ResultSource, collect_results, panel_of
from hpc_jepa.report.robustness_table import RobustnessRow, robustness_table
from hpc_jepa.report.row_names import BASELINE, read_row_names
from hpc_jepa.report.run_report import FoundRuns, RunReport, study_descriptions
from hpc_jepa.report.scarce_classes import scarce_classes
from hpc_jepa.report.study_grid import study_grids, task_grids, without_verdicts
from hpc_jepa.report.switches import SemanticsComparison, compare_semantics
from hpc_jepa.report.task_results import TaskSource, collect_task_results


@dataclass(frozen=True)
class ReportData:
    """Content of the page and the tables. ``limitations`` and ``other_probes`` are those of the published numbers.

    ``grids``, ``tables`` and ``rows`` are of probes, ``task_grids`` and ``task_rows`` of the other tasks.
    ``sources``: the record of each row.
    """

    descriptions: Sequence[str] = ()
    answers: Sequence[Answer] = ()
    corruption: Sequence[CorruptionSummary] = ()
    headlines: Sequence[str] = ()
    grids: Sequence[ResultGrid] = ()
    audits: Sequence[Audit] = ()
    limitations: Sequence[str] = ()
    other_probes: Sequence[tuple[ClaimCell, Interval]] = ()
    tables: Sequence[ResultTable] = ()
    rows: Sequence[ResultRow] = ()
    scores: Sequence[StudyScores] = ()
    comparisons: Sequence[SemanticsComparison] = ()
    factorial: Sequence[FactorialDesign] = ()
    incomplete_factorial: Sequence[str] = ()
    robustness: Sequence[RobustnessRow] = ()
    gaps: Sequence[str] = ()
    runs: Sequence[RunReport] = ()
    over_steps: Sequence[StepSeries] = ()
    task_grids: Sequence[ResultGrid] = ()
    task_rows: Sequence[ResultRow] = ()
    sources: Mapping[ResultRow, ResultSource | TaskSource] = field(default_factory=dict)

    @property
    def answer_sentences(self) -> list[str]:
        """The answers to the questions of the studies, which come before everything else."""
        return [
            sentence
            for answer in self.answers
            for sentence in answer_sentences(answer, [each for each in self.corruption if each.study == answer.study])
        ]

    def study_grids(self, scores: StudyScores) -> list[ResultGrid]:
        """The grids of one study."""
        return [grid for grid in self.grids if grid.source == scores.study]


def collect_run_data(found: FoundRuns, places: Sequence[Path]) -> ReportData:
    """Content from runs, without audits.

    Raises InputError if no run was evaluated, DataError if all evaluations are damaged.
    """
    runs, results = found.runs, collect_results(found.runs)
    checked, tasks = check_predictions(results), collect_task_results(found.runs)
    rows, task_rows = list(checked.answers), list(tasks.answers)
    damaged = [f"damaged, left out: {line}" for line in (*found.damaged, *checked.damaged, *tasks.damaged)]
    if not rows and not task_rows and damaged:
        raise DataError(f"{places[0]}: no sound evaluation to report; {damaged[0]}")
    if not rows and not task_rows and any(run.step_records for run in runs):
        raise InputError(
            f"{places[0]}: only checkpoints before the last step were evaluated, so there is nothing to report yet; "
            "'hpc-jepa study next' has the decisions of looks at them"
        )
    if not rows and not task_rows:
        raise InputError(f"{places[0]}: no run was evaluated yet; run 'hpc-jepa evaluate RUN --benchmark NAME' first")
    attentive = {panel_of(row) for row in rows if results[row].result.pooling == "tokens"}
    names = read_row_names(runs)
    comparable, left_out = split_by_steps(rows, results, names)
    answers = {row: checked.answers[row] for row in comparable}
    comparable_tasks, other_tasks = split_by_steps(task_rows, tasks.sources, names)
    task_answers = {row: tasks.answers[row] for row in comparable_tasks}
    metrics, columns = deciding_metrics(runs), deciding_columns(runs)
    scores = collect_scores(answers, checked.clusters, runs, names, metrics, task_answers, columns)
    studies = read_studies(runs)
    questions = answer_questions(scores, studies)
    grids = judge_by_looks([grid for study in scores for grid in study_grids(study, runs)], runs)
    sequential = sequential_studies(runs)
    fixed = [study for study in scores if study.study not in sequential]
    of_tasks = [(study in fixed, grid) for study in scores for grid in task_grids(study, runs)]
    beside_probes = [grid if judged else without_verdicts(grid) for judged, grid in of_tasks]
    free = [study for study in fixed if study.study not in studies]
    comparisons = [comparison for study in free for comparison in compare_semantics(study)]
    return ReportData(
        descriptions=study_descriptions(runs),
        headlines=(
            *sequential_findings(runs),
            *write_headlines(
                rows, attentive, grids, comparisons, compared_rows(comparable, runs, names), answered=studies
            ),
        ),
        answers=questions,
        corruption=[summary for answer in questions for summary in corruption_summaries(answer)],
        grids=judge_by_questions(grids, questions),
        tables=result_tables(runs, rows),
        rows=rows,
        scores=scores,
        comparisons=comparisons,
        factorial=[design for study in free for design in factorial_designs(study)],
        incomplete_factorial=[line for study in free for line in incomplete_designs(study)],
        robustness=robustness_table(scores, tasks.sources, questions),
        gaps=[*damaged, *left_out, *other_tasks, *find_gaps(runs, rows), *scarce_classes(runs)],
        runs=runs,
        over_steps=step_series(runs),
        task_grids=judge_by_questions(beside_probes, questions),
        task_rows=task_rows,
        sources={**{row: results[row] for row in rows}, **tasks.sources},
    )


def with_audits(data: ReportData, audits: Sequence[Audit]) -> ReportData:
    """Add audits of runs, and a headline for each that decides any claim."""
    sentences = (audit.sentence for audit in audits if audit.decided)
    return replace(data, audits=audits, headlines=(*data.headlines, *sentences))


def with_published(data: ReportData, published: PublishedStudy, audit: Audit) -> ReportData:
    """Put the published numbers before those of the runs."""
    grids = published_grids(published)
    p_values = [contrast.p_value for grid in grids for _, _, contrast in grid.all_contrasts()]
    beyond = sum(p_value < SIGNIFICANCE for p_value in holm(p_values))
    sentence = (
        f"Published numbers: {beyond} of {len(p_values)} differences to the baselines are larger than the sampling of "
        "test clips explains (after Holm's correction). Each is between two single runs, so none can be called a gain "
        "or a loss of an objective."
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
        floors = {column: abs(contrast.points) for row, column, contrast in grid.all_contrasts() if row in baselines}
        if not floors:
            continue
        others = [
            abs(contrast.points) <= floors[column]
            for row, column, contrast in grid.all_contrasts()
            if column in floors and row not in baselines
        ]
        floor = " and ".join(f"{points:.2f} points on {column}" for column, points in floors.items())
        sentences.append(
            f"Another seed of the baseline alone makes a difference of {floor} ({grid.title}): {sum(others)} of the "
            f"{len(others)} differences of objectives there {'is' if sum(others) == 1 else 'are'} no larger."
        )
    return sentences
