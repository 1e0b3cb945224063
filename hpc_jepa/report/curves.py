"""Curves over labels per class (few-shot), severity (robustness), and frame dropout (text)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from hpc_jepa.evaluation.record import BaseRecord, BaseResult, RobustnessRecord
from hpc_jepa.report.plots import INK, SERIES, STYLES, render_svg
from hpc_jepa.report.results import RANDOM, TRAINED
from hpc_jepa.report.run_report import RunReport


@dataclass(frozen=True)
class CurvePoint:
    """One point; ``value``, ``low`` and ``high`` in percent."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One encoder. ``name``: variant with semantics, or the weights if no run of the study trained it."""

    name: str
    seed: int
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Chart:
    """Comparable curves: same regime, benchmark, protocol and metric."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class _PlacedPoint:
    """A point with its chart and curve."""

    chart: str
    curve: tuple[str, int]
    point: CurvePoint


def few_shot_charts(runs: Sequence[RunReport]) -> list[Chart]:
    """Accuracy over labels per class, for target weights and untrained or external encoders."""
    found = [
        _PlacedPoint(_title(record), _line(record, result), _point(result.shots, result))
        for run in runs
        for record in run.few_shot.values()
        for result in record.results
        if result.kind == "draws" and result.weights != "student"
    ]
    return _charts(found, "labels per class", "accuracy, %")


def robustness_charts(runs: Sequence[RunReport]) -> list[Chart]:
    """Accuracy over severity, one chart per corruption and probe; severity 0 is the clean test set."""
    found = [item for run in runs for record in run.robustness.values() for item in _corruption_points(record)]
    return _charts(found, "severity", "accuracy, %")


def text_charts(runs: Sequence[RunReport]) -> list[Chart]:
    """Retrieval and class-name accuracy over the share of dropped frames."""
    found = [
        _PlacedPoint(
            f"{result.direction.replace('_', ' ')}, {result.metric}: {_title(record)}",
            _line(record, result),
            _point(100 * result.dropout, result),
        )
        for run in runs
        for record in run.text.values()
        for result in record.results
        if result.weights != "student"
    ]
    return _charts(found, "dropped frames, %", "%")


def draw_chart(chart: Chart, colours: dict[str, int]) -> str:
    """The chart as SVG: one colour per variant, one line style per seed; external encoders in the text colour."""
    seeds = sorted({line.seed for line in chart.curves})

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for line in chart.curves:
            colour = SERIES[colours[line.name]] if line.name in colours else INK
            x = [point.x for point in line.points]
            values = [point.value for point in line.points]
            low, high = ([getattr(point, bound) for point in line.points] for bound in ("low", "high"))
            style = STYLES[seeds.index(line.seed) % len(STYLES)]
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.plot(x, values, color=colour, linestyle=style, marker="o", markersize=3)
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        axes.set_ylim(bottom=0)

    return render_svg(paint, height=2.6, width=4.2)


def _corruption_points(record: RobustnessRecord) -> Iterator[_PlacedPoint]:
    """Results on corrupted clips, each after the clean result as point of severity 0."""
    results = [result for result in record.results if result.weights != "student"]
    clean = {(result.weights, result.probe): result for result in results if result.severity == 0}
    for result in results:
        if result.severity == 0:
            continue
        corruption, probe = result.corruption.replace("_", " "), result.probe.replace("_", " ")
        title, line = f"{corruption}: {_title(record)}, {probe} probe", _line(record, result)
        yield _PlacedPoint(title, line, _point(0, clean[result.weights, result.probe]))
        yield _PlacedPoint(title, line, _point(result.severity, result))


def _charts(placed: Iterable[_PlacedPoint], x_label: str, y_label: str) -> list[Chart]:
    charts: dict[str, dict[tuple[str, int], dict[float, CurvePoint]]] = {}
    for item in placed:
        charts.setdefault(item.chart, {}).setdefault(item.curve, {})[item.point.x] = item.point
    return [Chart(title, x_label, y_label, tuple(_lines(lines))) for title, lines in charts.items()]


def _lines(lines: dict[tuple[str, int], dict[float, CurvePoint]]) -> Iterator[Curve]:
    for (name, seed), points in lines.items():
        yield Curve(name, seed, tuple(points[x] for x in sorted(points)))


def _line(record: BaseRecord, result: BaseResult) -> tuple[str, int]:
    if result.weights in TRAINED:
        return f"{record.run.variant} ({record.run.semantics})", record.run.seed
    return result.weights, record.run.seed if result.weights == RANDOM else 0


def _point(x: float, result: BaseResult) -> CurvePoint:
    return CurvePoint(float(x), 100 * result.value, 100 * result.low, 100 * result.high)


def _title(record: BaseRecord) -> str:
    return f"{record.benchmark}, {record.protocol}, {record.run.regime}"
