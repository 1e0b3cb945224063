"""The HTML page of a report, self-contained: style, plots and frames are in the file."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hpc_jepa.report import curves, factorial_plots, grid_plots, plots
from hpc_jepa.report.answer_text import verdict
from hpc_jepa.report.audit import audit_lines
from hpc_jepa.report.curves import Chart
from hpc_jepa.report.export_tables import format_bound
from hpc_jepa.report.line_plots import MOST_LABELLED, Line, draw_lines
from hpc_jepa.report.over_steps import step_sentences
from hpc_jepa.report.record_links import RecordLinks
from hpc_jepa.report.report_data import ReportData
from hpc_jepa.report.result_grid import ResultGrid
from hpc_jepa.report.results import Panel, group_by_panel
from hpc_jepa.report.robustness_table import RobustnessRow
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.report.seeds_needed import SeedsNeeded, count_seeds_needed
from hpc_jepa.report.wording import UNKNOWN_CLUSTERS, cluster_mark, factorial_note, format_p, note
from hpc_jepa.runs.metrics_log import MetricsRecord
from hpc_jepa.runs.preview_file import PreviewStrip

BANDS = "Bands: 95 % intervals. Neutral colour: encoders that no run trained. Lines of one colour: seeds."

CHOSEN_ON_TEST = "‡"
"""Mark of results of a probe that was chosen on the test clips."""

PRINTED_COLUMNS = 4
"""Columns of a table that fit on a printed page beside its first one; wider tables are printed in parts."""

StepMetric = Callable[[MetricsRecord], float | None]
"""A metric of a logged step, None if it was not logged."""


@dataclass(frozen=True)
class PagePlot:
    """A plot with its title. ``wide``: panels that need the width of the page."""

    title: str
    svg: Markup
    wide: bool = False


@dataclass(frozen=True)
class ClipPreview:
    """Frames of a run's first clip."""

    run: str
    strips: Sequence[PreviewStrip]


@dataclass(frozen=True)
class ChartSection:
    """A section of charts; in the robustness section with the rows of its table."""

    title: str
    note: str
    plots: Sequence[PagePlot]
    robustness: Sequence[RobustnessRow] = ()


@dataclass(frozen=True)
class RecordedData:
    """What records of one benchmark, protocol and task have in common: SHA-256 of the manifests of their data."""

    benchmark: str
    protocol: str
    fingerprint: str
    train: str
    test: str


def render_page(data: ReportData, folder: Path) -> str:
    """The page as HTML, to be written to ``folder``, from which its links to records start."""
    environment = Environment(
        loader=PackageLoader("hpc_jepa.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    places = plots.variant_colours(data.runs)
    audits = [audit for audit in data.audits if audit.decided]
    lines = audit_lines(audits)
    return environment.get_template("page.html").render(
        data=data,
        title=", ".join(sorted({run.config.study for run in data.runs})) or "The published numbers",
        note=note,
        verdict=verdict,
        cluster_mark=cluster_mark,
        unknown_mark=UNKNOWN_CLUSTERS,
        test_mark=CHOSEN_ON_TEST,
        factorial_note=factorial_note,
        format_p=format_p,
        links=RecordLinks.of(folder, data.sources, data.scores, data.runs),
        needed=_seeds_needed(data),
        printed_columns=PRINTED_COLUMNS,
        recorded_data=_recorded_data(data.runs),
        software=_software(data.runs),
        designs=[(design, Markup(factorial_plots.interaction_plot(design))) for design in data.factorial],
        bound=format_bound,
        forests=_forest_plots(data.grids),
        trade_offs=_trade_off_plots(data.grids),
        audits=audits,
        claims=[line for line in lines if line.known],
        unknown_claims=[line.claim.id for line in lines if not line.known],
        accuracies=[
            PagePlot(_title(panel), Markup(plots.accuracy_plot(rows, places)))
            for panel, rows in group_by_panel(data.rows).items()
        ],
        curves=_curves(data, places),
        losses=_loss_plots(data.runs, places),
        health=_health_plots(data.runs, places),
        passes=[(run, run.state.passes) for run in data.runs if run.state and run.state.passes],
        preview=next((ClipPreview(run.label, run.preview.strips) for run in data.runs if run.preview), None),
    )


def _seeds_needed(data: ReportData) -> dict[str, SeedsNeeded]:
    """By the title of the grid; none for published numbers, which are of single runs. Differences of two rows that are
    in the answer to a question of the study have its number.
    """
    answered = {
        (answer.study, asked.regime, str(asked.column), frozenset(asked.weights)): asked.needed.seeds
        for answer in data.answers
        for asked in answer.contrasts
        if asked.needed is not None and sorted(asked.weights.values()) == [-1.0, 1.0]
    }
    found = {}
    for scores in data.scores:
        for grid in (*data.grids, *data.task_grids):
            if grid.source == scores.study:
                needed = count_seeds_needed(scores, grid)
                pairs = {(row, column): {row, contrast.reference} for row, column, contrast in grid.all_contrasts()}
                cells = {
                    key: answered.get((grid.source, grid.regime, key[1], frozenset(pairs[key])), own)
                    for key, own in needed.cells.items()
                }
                found[grid.title] = replace(needed, cells=cells)
    return found


def _recorded_data(runs: Sequence[RunReport]) -> list[RecordedData]:
    """The data and protocol of all records, each once."""
    records = (record for run in runs for _, record in run.all_records)
    return list(
        dict.fromkeys(
            RecordedData(
                record.benchmark,
                f"{record.protocol}, {record.task.replace('_', ' ')}",
                record.protocol_fingerprint,
                record.data["train"],
                record.data["test"],
            )
            for record in records
        )
    )


def _software(runs: Sequence[RunReport]) -> list[str]:
    """Each set of versions that records were made with, and the number of its records."""
    sets = Counter(
        ", ".join(f"{name} {version}" for name, version in record.software.items())
        for run in runs
        for _, record in run.all_records
    )
    return [f"{count} records: {versions}" for versions, count in sets.most_common()]


def _forest_plots(grids: Sequence[ResultGrid]) -> list[PagePlot]:
    return [
        PagePlot(_forest_title(grid, column), Markup(grid_plots.forest_plot(grid, column)))
        for grid in grids
        for column in grid.columns
        if grid_plots.shown_contrasts(grid, column)
    ]


def _forest_title(grid: ResultGrid, column: str) -> str:
    asked = any(contrast.asked for _, contrast in grid.contrasts(column))
    return f"{column}: {grid.title}{'' if asked else ' (beside the deciding column: no verdict)'}"


def _trade_off_plots(grids: Sequence[ResultGrid]) -> list[PagePlot]:
    page_plots = []
    for grid in grids:
        for across, up in grid_plots.appearance_motion_pairs(grid):
            points = grid_plots.trade_off_points(grid, across, up)
            if len(points) > 1:
                drawing = grid_plots.trade_off_plot(points, across, up, grid.reference)
                page_plots.append(PagePlot(f"{across} and {up}: {grid.title}", Markup(drawing)))
    return page_plots


def _curves(data: ReportData, places: dict[str, int]) -> list[ChartSection]:
    """Sections of the tasks beside probes that have records."""

    def drawn(charts: Sequence[Chart]) -> list[PagePlot]:
        return [
            plot
            for chart in charts
            for plot in _parts(chart.title, curves.draw_chart(chart, places), {curve.name for curve in chart.curves})
        ]

    sections = [
        ChartSection(
            "Accuracy over steps",
            " ".join([*step_sentences(data.over_steps), BANDS]),
            drawn(curves.step_charts(data.over_steps)),
        ),
        ChartSection(
            "Few-shot accuracy", f"Mean over draws of labels. {BANDS}", drawn(curves.few_shot_charts(data.runs))
        ),
        ChartSection(
            "Robustness",
            "Severity 0 is the clean test set. Mean corruption error: error on corrupted clips relative to the "
            "baseline (1 is equal, less is better); relative error: the same of the accuracy lost by corruption; "
            "retained accuracy: share of the clean one. Consistency: share of clips with unchanged class. "
            f"{BANDS}",
            drawn(curves.robustness_charts(data.runs)),
            data.robustness,
        ),
        ChartSection(
            "Text alignment",
            f"Two heads trained on captions, on frozen encoders. {BANDS}",
            drawn(curves.text_charts(data.runs)),
        ),
    ]
    return [section for section in sections if section.plots]


def _title(panel: Panel) -> str:
    return f"{panel.probe.replace('_', ' ').capitalize()} probe: {panel.benchmark}, {panel.protocol}, {panel.regime}"


def _loss_plots(runs: Sequence[RunReport], places: dict[str, int]) -> list[PagePlot]:
    if not any(run.metrics for run in runs):
        return []
    terms = sorted({name for run in runs for record in run.metrics for name in record.terms})
    total = _step_plots(runs, "Total loss", lambda step: step.loss, places)
    others = (plot for name in terms for plot in _step_plots(runs, name.replace("_", " "), _term(name), places))
    return [*total, *others]


def _health_plots(runs: Sequence[RunReport], places: dict[str, int]) -> list[PagePlot]:
    if not any(record.health for run in runs for record in run.metrics):
        return []

    def deviation(step: MetricsRecord) -> float | None:
        """Standard deviation of the target."""
        return step.health.target_std if step.health else None

    def rank(step: MetricsRecord) -> float | None:
        """Effective rank of the target."""
        return step.health.effective_rank if step.health else None

    return [
        *_step_plots(runs, "Target standard deviation", deviation, places),
        *_step_plots(runs, "Effective rank", rank, places),
    ]


def _term(name: str) -> StepMetric:
    return lambda step: step.terms.get(name)


def _step_plots(runs: Sequence[RunReport], title: str, read: StepMetric, places: dict[str, int]) -> list[PagePlot]:
    """One metric over training steps: one line per run, one plot per regime, of those that logged it."""
    by_regime: dict[str, list[Line]] = {}
    for run in runs:
        points = [(step.step, value) for step in run.metrics if (value := read(step)) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            by_regime.setdefault(run.config.regime, []).append(Line(plots.variant_label(run), steps, values))
    found = []
    for regime, lines in by_regime.items():
        named = title if len({run.config.regime for run in runs}) == 1 else f"{title}, {regime}"
        found += _parts(named, draw_lines(lines, "step", "", places, zero=False), {line.name for line in lines})
    return found


def _parts(title: str, drawings: Sequence[str], names: Collection[str]) -> list[PagePlot]:
    """The figures of one plot, numbered if they are several."""
    return [
        PagePlot(
            title if len(drawings) == 1 else f"{title} ({number} of {len(drawings)})",
            Markup(drawing),
            wide=len(names) > MOST_LABELLED,
        )
        for number, drawing in enumerate(drawings, start=1)
    ]
