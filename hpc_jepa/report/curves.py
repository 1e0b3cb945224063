"""Curves over labels per class (few-shot), severity (robustness), and frame dropout (text)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

from hpc_jepa.evaluation.record import BaseRecord, BaseResult, RobustnessRecord, TextResult
from hpc_jepa.report.line_plots import Line, draw_lines
from hpc_jepa.report.over_steps import StepSeries
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


_PlacedPoint = tuple[str, tuple[str, int], CurvePoint]
"""A point after its chart, and the name and seed of its curve."""


def few_shot_charts(runs: Sequence[RunReport]) -> list[Chart]:
    """Accuracy over labels per class, for target weights and untrained or external encoders."""
    points = [
        (_title(record), _curve_key(record, result), _point(result.shots, result))
        for run in runs
        for record in run.few_shot.values()
        for result in record.results
        if result.kind == "draws" and result.weights != "student"
    ]
    return _charts(points, "labels per class", "accuracy, %")


def robustness_charts(runs: Sequence[RunReport]) -> list[Chart]:
    """Accuracy over severity, one chart per corruption and probe; severity 0 is the clean test set."""
    points = [point for run in runs for record in run.robustness.values() for point in _corruption_points(record)]
    return _charts(points, "severity", "accuracy, %")


def text_charts(runs: Sequence[RunReport]) -> list[Chart]:
    """Retrieval and class-name accuracy over the share of dropped frames."""
    points = [
        (
            f"{result.direction.replace('_', ' ')}, {result.metric}{_lost(result)}: {_title(record)}",
            _curve_key(record, result),
            _point(100 * result.dropout, result),
        )
        for run in runs
        for record in run.text.values()
        for result in record.results
        if result.weights != "student"
    ]
    return _charts(points, "dropped frames, %", "%")


def _lost(result: TextResult) -> str:
    """Which frames are dropped, unless random ones."""
    return "" if result.lost_frames == "random" else f", {result.lost_frames} frames"


def step_charts(series: Iterable[StepSeries]) -> list[Chart]:
    """Accuracy over the steps of a run, for target weights."""
    points: dict[str, list[_PlacedPoint]] = {}
    for row in (row for each in series for row in each.rows):
        title = f"{row.benchmark}, {row.protocol}, {row.regime}, {row.probe.replace('_', ' ')} probe"
        point = CurvePoint(float(row.steps), row.value, row.low, row.high)
        points.setdefault(row.axis, []).append((title, (row.name, row.seed), point))
    return [chart for axis, placed in points.items() for chart in _charts(placed, "step", axis)]


def draw_chart(chart: Chart, places: dict[str, int]) -> list[str]:
    """The chart as SVG, in several figures if it has very many curves. ``places``: see ``variant_colours``."""
    lines = []
    for curve in chart.curves:
        x, y, low, high = zip(*(astuple(point) for point in curve.points), strict=True)
        lines.append(Line(curve.name, x, y, low, high))
    return draw_lines(lines, chart.x_label, chart.y_label, places, zero=True)


def _corruption_points(record: RobustnessRecord) -> Iterator[_PlacedPoint]:
    """Results on corrupted clips, each after the clean result as point of severity 0."""
    results = [result for result in record.results if result.weights != "student"]
    clean = {(result.weights, result.probe): result for result in results if result.severity == 0}
    for result in results:
        if result.severity == 0:
            continue
        corruption, probe = result.corruption.replace("_", " "), result.probe.replace("_", " ")
        title, curve = f"{corruption}: {_title(record)}, {probe} probe", _curve_key(record, result)
        yield title, curve, _point(0, clean[result.weights, result.probe])
        yield title, curve, _point(result.severity, result)


def _charts(placed: Iterable[_PlacedPoint], x_label: str, y_label: str) -> list[Chart]:
    charts: dict[str, dict[tuple[str, int], dict[float, CurvePoint]]] = {}
    for chart, curve, point in placed:
        charts.setdefault(chart, {}).setdefault(curve, {})[point.x] = point
    return [
        Chart(
            title,
            x_label,
            y_label,
            tuple(Curve(*key, tuple(points[x] for x in sorted(points))) for key, points in curves.items()),
        )
        for title, curves in charts.items()
    ]


def _curve_key(record: BaseRecord, result: BaseResult) -> tuple[str, int]:
    if result.weights in TRAINED:
        return f"{record.run.variant} ({record.run.semantics_name})", record.run.seed
    return result.weights, record.run.seed if result.weights == RANDOM else 0


def _point(x: float, result: BaseResult) -> CurvePoint:
    return CurvePoint(float(x), 100 * result.value, 100 * result.low, 100 * result.high)


def _title(record: BaseRecord) -> str:
    return f"{record.benchmark}, {record.protocol}, {record.run.regime}"
