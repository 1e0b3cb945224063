"""Curves over the number of labels, the severity of a corruption, or the share of lost frames."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from hpc_jepa.evaluation.record import BaseRecord, BaseResult, RobustnessRecord
from hpc_jepa.report.plots import INK, SERIES, STYLES, render_svg
from hpc_jepa.report.results import RANDOM, TRAINED
from hpc_jepa.report.run_report import RunReport


@dataclass(frozen=True)
class CurvePoint:
    """One measured point. ``x`` in the unit of the curve, the rest in percent."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One encoder: ``name`` is its variant with semantics, or its weights where no run of the study trained it."""

    name: str
    seed: int
    readings: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Chart:
    """Lines that may be compared: same regime, benchmark, protocol and way of measuring."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Curve, ...]


@dataclass(frozen=True)
class _Measurement:
    """A result with its place: which chart, which line, where on it."""

    chart: str
    line: tuple[str, int]
    reading: CurvePoint


def few_shot_charts(runs: Sequence[RunReport]) -> list[Chart]:
    """Accuracy over labels per class, target weights and encoders that need no training."""
    found = [
        _Measurement(_title(record), _line(record, result), _reading(result.shots, result))
        for run in runs
        for record in run.few_shot.values()
        for result in record.results
        if result.kind == "draws" and result.weights != "student"
    ]
    return _charts(found, "labels per class", "accuracy, %")


def robustness_charts(runs: Sequence[RunReport]) -> list[Chart]:
    """Accuracy over severity, one chart per corruption and probe; severity 0 is the clean test set."""
    found = [item for run in runs for record in run.robustness.values() for item in _damage(record)]
    return _charts(found, "severity", "accuracy, %")


def text_charts(runs: Sequence[RunReport]) -> list[Chart]:
    """Retrieval and naming over the share of lost frames."""
    found = [
        _Measurement(
            f"{result.direction.replace('_', ' ')}, {result.metric}: {_title(record)}",
            _line(record, result),
            _reading(100 * result.dropout, result),
        )
        for run in runs
        for record in run.text.values()
        for result in record.results
        if result.weights != "student"
    ]
    return _charts(found, "frames lost, %", "%")


def draw_chart(chart: Chart, colours: dict[str, int]) -> str:
    """The chart as SVG: one colour per variant, one line style per seed; encoders without training in ink."""
    seeds = sorted({line.seed for line in chart.lines})

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for line in chart.lines:
            colour = SERIES[colours[line.name]] if line.name in colours else INK
            x = [reading.x for reading in line.readings]
            values = [reading.value for reading in line.readings]
            low, high = ([getattr(reading, bound) for reading in line.readings] for bound in ("low", "high"))
            style = STYLES[seeds.index(line.seed) % len(STYLES)]
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.plot(x, values, color=colour, linestyle=style, marker="o", markersize=3)
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        axes.set_ylim(bottom=0)

    return render_svg(paint, height=2.6, width=4.2)


def _damage(record: RobustnessRecord) -> Iterator[_Measurement]:
    """Every damaged result, and for each the clean one that its line begins with."""
    results = [result for result in record.results if result.weights != "student"]
    clean = {(result.weights, result.probe): result for result in results if result.severity == 0}
    for result in results:
        if result.severity == 0:
            continue
        corruption, probe = result.corruption.replace("_", " "), result.probe.replace("_", " ")
        title, line = f"{corruption}: {_title(record)}, {probe} probe", _line(record, result)
        yield _Measurement(title, line, _reading(0, clean[result.weights, result.probe]))
        yield _Measurement(title, line, _reading(result.severity, result))


def _charts(found: Iterable[_Measurement], x_label: str, y_label: str) -> list[Chart]:
    charts: dict[str, dict[tuple[str, int], dict[float, CurvePoint]]] = {}
    for item in found:
        charts.setdefault(item.chart, {}).setdefault(item.line, {})[item.reading.x] = item.reading
    return [Chart(title, x_label, y_label, tuple(_lines(lines))) for title, lines in charts.items()]


def _lines(lines: dict[tuple[str, int], dict[float, CurvePoint]]) -> Iterator[Curve]:
    for (name, seed), readings in lines.items():
        yield Curve(name, seed, tuple(readings[x] for x in sorted(readings)))


def _line(record: BaseRecord, result: BaseResult) -> tuple[str, int]:
    if result.weights in TRAINED:
        return f"{record.run.variant} ({record.run.semantics})", record.run.seed
    return result.weights, record.run.seed if result.weights == RANDOM else 0


def _reading(x: float, result: BaseResult) -> CurvePoint:
    return CurvePoint(float(x), 100 * result.value, 100 * result.low, 100 * result.high)


def _title(record: BaseRecord) -> str:
    return f"{record.benchmark}, {record.protocol}, {record.run.regime}"
