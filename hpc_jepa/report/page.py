"""The HTML page of a report, self-contained: style, plots and frames are in the file."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hpc_jepa.report import curves, factorial_plots, grid_plots, plots
from hpc_jepa.report.audit import audit_lines
from hpc_jepa.report.curves import Chart
from hpc_jepa.report.export_tables import format_bound
from hpc_jepa.report.over_steps import step_sentences
from hpc_jepa.report.plots import StepMetric
from hpc_jepa.report.report_data import ReportData
from hpc_jepa.report.result_grid import ResultGrid
from hpc_jepa.report.results import Panel, group_by_panel
from hpc_jepa.report.robustness_table import RobustnessRow
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.report.wording import UNKNOWN_CLUSTERS, cluster_mark, factorial_note, format_p, note
from hpc_jepa.runs.preview_file import PreviewStrip

BANDS = "Bands: 95 % intervals. Neutral colour: encoders that no run trained. Line style: seed."


@dataclass(frozen=True)
class PagePlot:
    """A plot with its title."""

    title: str
    svg: Markup


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


def render_page(data: ReportData) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("hpc_jepa.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    colours = plots.variant_colours(data.runs)
    audits = [audit for audit in data.audits if audit.decided]
    lines = audit_lines(audits)
    return environment.get_template("page.html").render(
        data=data,
        title=", ".join(sorted({run.config.study for run in data.runs})) or "The published numbers",
        note=note,
        cluster_mark=cluster_mark,
        unknown_mark=UNKNOWN_CLUSTERS,
        factorial_note=factorial_note,
        format_p=format_p,
        designs=[(design, Markup(factorial_plots.interaction_plot(design))) for design in data.factorial],
        bound=format_bound,
        forests=_forest_plots(data.grids),
        trade_offs=_trade_off_plots(data.grids),
        audits=audits,
        claims=[line for line in lines if line.known],
        unknown_claims=[line.claim.id for line in lines if not line.known],
        colours=colours,
        accuracies=[
            PagePlot(_title(panel), Markup(plots.accuracy_plot(rows, colours)))
            for panel, rows in group_by_panel(data.rows).items()
        ],
        curves=_curves(data, colours),
        losses=_loss_plots(data.runs),
        health=_health_plots(data.runs),
        passes=[(run, run.state.passes) for run in data.runs if run.state and run.state.passes],
        preview=next((ClipPreview(run.label, run.preview.strips) for run in data.runs if run.preview), None),
    )


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


def _curves(data: ReportData, colours: dict[str, int]) -> list[ChartSection]:
    """Sections of the tasks beside probes that have records."""

    def drawn(charts: Sequence[Chart]) -> list[PagePlot]:
        return [PagePlot(chart.title, Markup(curves.draw_chart(chart, colours))) for chart in charts]

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
            f"baseline (1 is equal, less is better). Consistency: share of clips with unchanged class. {BANDS}",
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


def _loss_plots(runs: Sequence[RunReport]) -> list[PagePlot]:
    if not any(run.metrics for run in runs):
        return []
    terms = sorted({name for run in runs for record in run.metrics for name in record.terms})
    total = _curve(runs, "Total loss", lambda step: step.loss)
    return [total, *(_curve(runs, name.replace("_", " "), _term(name)) for name in terms)]


def _health_plots(runs: Sequence[RunReport]) -> list[PagePlot]:
    if not any(record.health for run in runs for record in run.metrics):
        return []
    return [
        _curve(runs, "Target standard deviation", lambda step: step.health.target_std if step.health else None),
        _curve(runs, "Effective rank", lambda step: step.health.effective_rank if step.health else None),
    ]


def _term(name: str) -> StepMetric:
    return lambda step: step.terms.get(name)


def _curve(runs: Sequence[RunReport], title: str, read: StepMetric) -> PagePlot:
    return PagePlot(title, Markup(plots.step_curves(runs, read)))
