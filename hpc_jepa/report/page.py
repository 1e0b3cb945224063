"""One self-contained HTML page: style, plots and frames inside the file, nothing loaded from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hpc_jepa.errors import DataError
from hpc_jepa.report import plots
from hpc_jepa.report.findings import SemanticsComparison
from hpc_jepa.report.plots import Reading
from hpc_jepa.report.provenance import Origin
from hpc_jepa.report.results import Panel, Row, panels
from hpc_jepa.report.runs import Run
from hpc_jepa.report.strip import Strip, strips
from hpc_jepa.report.table import ResultTable


@dataclass(frozen=True)
class Content:
    """All that the page says."""

    abouts: Sequence[str]
    headlines: Sequence[str]
    tables: Sequence[ResultTable]
    rows: Sequence[Row]
    comparisons: Sequence[SemanticsComparison]
    missing: Sequence[str]
    provenance: Sequence[Origin]
    runs: Sequence[Run]


@dataclass(frozen=True)
class Plot:
    """A drawing under its title."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Frames:
    """Strips of a run's first clip, or why there are none."""

    run: str
    strips: Sequence[Strip]
    absent: str = ""


def render(content: Content) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=PackageLoader("hpc_jepa.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    colours = plots.colour_of(content.runs)
    return environment.get_template("page.html").render(
        content=content,
        studies=sorted({run.config.study for run in content.runs}),
        colours=colours,
        accuracies=[
            Plot(_title(panel), Markup(plots.accuracies(rows, colours))) for panel, rows in panels(content.rows).items()
        ],
        losses=_losses(content.runs),
        health=_health(content.runs),
        frames=_frames(content.runs),
    )


def _title(panel: Panel) -> str:
    return f"{panel.probe.replace('_', ' ').capitalize()} probe: {panel.benchmark}, {panel.protocol}, {panel.regime}"


def _losses(runs: Sequence[Run]) -> list[Plot]:
    if not any(run.steps for run in runs):
        return []
    terms = sorted({name for run in runs for step in run.steps for name in step.terms})
    total = _curve(runs, "Total loss", lambda step: step.loss)
    return [total, *(_curve(runs, name.replace("_", " "), _term(name)) for name in terms)]


def _health(runs: Sequence[Run]) -> list[Plot]:
    if not any(step.health for run in runs for step in run.steps):
        return []
    return [
        _curve(runs, "Target standard deviation", lambda step: step.health.target_std if step.health else None),
        _curve(runs, "Effective rank", lambda step: step.health.effective_rank if step.health else None),
    ]


def _term(name: str) -> Reading:
    return lambda step: step.terms.get(name)


def _curve(runs: Sequence[Run], title: str, read: Reading) -> Plot:
    return Plot(title, Markup(plots.curves(runs, read)))


def _frames(runs: Sequence[Run]) -> Frames:
    """Frames of the first run."""
    run = runs[0]
    try:
        return Frames(run.label, strips(run.config))
    except DataError as error:
        return Frames(run.label, (), absent=str(error))
