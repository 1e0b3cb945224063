"""Plots of a result grid: differences to the baseline (forest plot), and trade-offs between two benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from hpc_jepa.report.plots import CARD, FAINT, INK, SERIES, SOFT, render_svg
from hpc_jepa.report.result_grid import ACCURACY, Contrast, ResultCell, ResultGrid
from hpc_jepa.report.results import RANDOM
from hpc_jepa.report.wording import cluster_mark

ABOVE, BELOW = SERIES[2], SERIES[1]
"""Colours of significant differences."""

APPEARANCE = ("imagenet100", "ucf101", "ucf101_full", "kinetics400")
LABEL_OFFSETS = tuple(((dx, dy), side) for dy in (4, -10, 15, -21) for dx, side in ((5, "left"), (-5, "right")))
"""Possible positions of a name beside its point, in typographic points."""

MOTION = ("ssv2", "diving48", "motion8", "synth_motion8", "katha")


@dataclass(frozen=True)
class TradeOffPoint:
    """A variant on two benchmarks."""

    name: str
    across: ResultCell
    up: ResultCell


def forest_plot(grid: ResultGrid, column: str) -> str:
    """Differences to the reference in points, sorted, with 95 % intervals. Thin: intervals that hold for all
    comparisons of the column at once. To the right, the number of common seeds.
    """
    contrasts = sorted(shown_contrasts(grid, column), key=lambda item: item[1].points)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, (_, contrast) in enumerate(contrasts):
            draw_difference(axes, place, contrast)
            seeds = f"{contrast.seeds} seed{'s' if contrast.seeds > 1 else ''}{cluster_mark(contrast)}"
            axes.annotate(seeds, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=7, color=SOFT)
        axes.set_yticks(range(len(contrasts)), [row for row, _ in contrasts])
        axes.set_ylim(-0.6, len(contrasts) - 0.4)
        metric = grid.metric(column)
        unit = "points" if metric == ACCURACY else metric.title
        reference = grid.reference if len(grid.references) < 2 else "baseline"
        axes.set_xlabel(f"{unit} vs {reference}{'' if metric.higher_is_better else ' (lower is better)'}")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)

    return render_svg(draw, height=0.8 + 0.21 * max(len(contrasts), 1), width=3.8)


def shown_contrasts(grid: ResultGrid, column: str) -> list[tuple[str, Contrast]]:
    """Differences in a forest plot: all but that of the untrained encoder, which has plots of its own."""
    return [(row, contrast) for row, contrast in grid.contrasts(column) if row != RANDOM]


def trade_off_plot(points: Sequence[TradeOffPoint], across: str, up: str, reference: str) -> str:
    """Accuracy on two benchmarks with both intervals; the Pareto front and the reference are labelled."""
    named = {point.name for point in pareto_front(points)} | {reference}

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for point in sorted(points, key=lambda point: point.name in named):  # labelled points on top
            _cross(axes, point, INK if point.name == reference else SERIES[0] if point.name in named else SOFT)
        axes.set_xlabel(f"{across}, %")
        axes.set_ylabel(f"{up}, %")
        axes.margins(0.12)
        figure.draw_without_rendering()  # the layout must be final to measure labels
        _label(axes, [point for point in points if point.name in named])

    return render_svg(draw, height=3.4)


def pareto_front(points: Sequence[TradeOffPoint]) -> list[TradeOffPoint]:
    """Points that no other point dominates."""

    def dominated(point: TradeOffPoint) -> bool:
        here = (point.across.value, point.up.value)
        others = ((other.across.value, other.up.value) for other in points)
        return any(x >= here[0] and y >= here[1] and (x, y) != here for x, y in others)

    return [point for point in points if not dominated(point)]


def appearance_motion_pairs(grid: ResultGrid) -> list[tuple[str, str]]:
    """Pairs of an appearance and a motion benchmark in the grid."""
    across = [column for column in grid.columns if _benchmark(column) in APPEARANCE]
    up = [column for column in grid.columns if _benchmark(column) in MOTION]
    return [(across[0], column) for column in up] if across else []


def trade_off_points(grid: ResultGrid, across: str, up: str) -> list[TradeOffPoint]:
    """Rows with both cells."""
    cells = ((row, grid.cell(row, across), grid.cell(row, up)) for row in grid.rows)
    return [TradeOffPoint(row, x, y) for row, x, y in cells if x is not None and y is not None]


def _benchmark(column: str) -> str:
    return column.split(",")[0]


def draw_difference(axes: Axes, place: float, contrast: Contrast) -> None:
    """A difference at height ``place``: thick its interval, thin the simultaneous one; filled if it is significant."""
    colour = _colour(contrast)
    axes.plot(contrast.bounds, [place, place], color=colour, linewidth=0.8)
    axes.plot([contrast.low, contrast.high], [place, place], color=colour, linewidth=2.4, solid_capstyle="round")
    fill = colour if contrast.significant else CARD
    axes.plot(contrast.points, place, "o", markersize=5, color=colour, markerfacecolor=fill)


def _colour(contrast: Contrast) -> str:
    if not contrast.significant:
        return SOFT
    return ABOVE if contrast.gain else BELOW


def _label(axes: Axes, points: Sequence[TradeOffPoint]) -> None:
    """Label each point at the first position where the label overlaps no other label."""
    taken: list[Bbox] = []
    for point in sorted(points, key=lambda point: point.up.value, reverse=True):
        where = (point.across.value, point.up.value)
        label = axes.annotate(point.name, where, LABEL_OFFSETS[0][0], textcoords="offset points", fontsize=8)
        for offset, side in LABEL_OFFSETS:
            label.set(position=offset, horizontalalignment=side)
            if not any(label.get_window_extent().overlaps(other) for other in taken):
                break
        taken.append(label.get_window_extent())


def _cross(axes: Axes, point: TradeOffPoint, colour: str) -> None:
    x, y = point.across, point.up
    axes.plot([x.low, x.high], [y.value, y.value], color=FAINT, linewidth=1.2, zorder=1)
    axes.plot([x.value, x.value], [y.low, y.high], color=FAINT, linewidth=1.2, zorder=1)
    fill = CARD if x.untrained or y.untrained else colour
    axes.plot(x.value, y.value, "o", markersize=5.5, color=colour, markerfacecolor=fill, zorder=2)
