"""Plots of many lines that stay distinct: labelled at their ends, or in panels of their own if they are many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpc_jepa.report.plots import INK, SERIES, SOFT, STYLES, render_svg
from hpc_jepa.report.row_names import BASELINE

MOST_LABELLED = len(SERIES)
"""Names of a plot that have a colour, a dash and a marker of their own."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PANEL_COLUMNS, PANELS = 4, 32
"""Panels in a row, and of one figure, which fits on a printed page."""

PANELS_WIDTH = 6.6
"""Inches."""

LABEL_SIZE = 7.5
FEW_POINTS = 6
"""Different x of a plot that has a tick at each."""


@dataclass(frozen=True)
class Line:
    """One line with its points. ``low``, ``high``: its 95 % interval, where known. Lines of one name are its seeds."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class LineStyle:
    """How the lines of one name are drawn."""

    colour: str
    dash: str
    marker: str


def draw_lines(lines: Sequence[Line], x_label: str, y_label: str, places: Mapping[str, int], zero: bool) -> list[str]:
    """The lines as SVG, one figure or several of panels. ``places``: of names on the page, for equal colours in all
    plots; ``zero``: the y axis begins at zero.

    Up to MOST_LABELLED names share one plot, each labelled at its end. More have a panel each, with the baseline in
    grey behind it, and equal axes.
    """
    names = list(dict.fromkeys(line.name for line in lines))
    if len(names) <= MOST_LABELLED:
        return [_labelled(lines, names, (x_label, y_label), places, zero)]
    order = sorted(names, key=lambda name: (not name.startswith(BASELINE), name))
    parts = [order[start : start + PANELS] for start in range(0, len(order), PANELS)]
    return [_panels(lines, part, (x_label, y_label), zero) for part in parts]


def line_styles(names: Sequence[str], places: Mapping[str, int]) -> dict[str, LineStyle]:
    """A style for each of at most MOST_LABELLED names, no two alike; encoders without a place in the text colour."""
    placed = [name for name in names if name in places]
    own = {name: places[name] % len(SERIES) for name in placed}
    if len(set(own.values())) < len(placed):
        own = {name: number for number, name in enumerate(sorted(placed))}
    free = (number for number in range(len(MARKERS)) if number not in own.values())
    return {
        name: LineStyle(SERIES[number], STYLES[number % len(STYLES)], MARKERS[number]) for name, number in own.items()
    } | {
        name: LineStyle(INK, STYLES[number % len(STYLES)], MARKERS[number])
        for name, number in zip([name for name in names if name not in places], free, strict=False)
    }


def _labelled(
    lines: Sequence[Line], names: Sequence[str], axis_labels: tuple[str, str], places: Mapping[str, int], zero: bool
) -> str:
    styles = line_styles(names, places)

    def draw(figure: Figure) -> None:
        """All lines in one plot, and a label at the end of each name's first."""
        axes = figure.add_subplot()
        for line in lines:
            _draw(axes, line, styles[line.name])
        axes.set_xlabel(axis_labels[0])
        axes.set_ylabel(axis_labels[1])
        axes.margins(x=0.02)
        _ticks_at_points(axes, lines)
        if zero:
            axes.set_ylim(bottom=0)
        _label_ends(axes, lines, styles)

    return render_svg(draw, height=2.6, width=4.6)


def _panels(lines: Sequence[Line], names: Sequence[str], axis_labels: tuple[str, str], zero: bool) -> str:
    rows = -(-len(names) // PANEL_COLUMNS)
    height = 0.65 + 0.92 * rows
    behind = LineStyle(SOFT, ":", "")
    ahead = LineStyle(SERIES[0], "-", "")

    def draw(figure: Figure) -> None:
        """A panel for each name."""
        panels = _panel_axes(figure, rows, len(names), height)
        for axes, name in zip(panels, names, strict=True):
            for line in lines:
                if line.name.startswith(BASELINE) and line.name != name:
                    axes.plot(line.x, line.y, color=behind.colour, linestyle=behind.dash, linewidth=0.8)
            for line in lines:
                if line.name == name:
                    _draw(axes, line, ahead)
            axes.set_title(_shown(name), fontsize=LABEL_SIZE, loc="left", pad=2)
        _ticks_at_points(panels[0], lines)
        if zero:
            panels[0].set_ylim(bottom=0)
        figure.supxlabel(axis_labels[0], fontsize=9, y=0.06 / height)
        figure.supylabel(axis_labels[1], fontsize=9, x=0.06 / PANELS_WIDTH)

    return render_svg(draw, height=height, width=PANELS_WIDTH, layout=None)


def _panel_axes(figure: Figure, rows: int, count: int, height: float) -> Sequence[Axes]:
    """Axes of ``count`` panels with shared scales. Ticks are on the left and at the bottom alone: many are slow."""
    left, bottom, top = 0.62 / PANELS_WIDTH, 0.42 / height, 1 - 0.2 / height
    figure.subplots_adjust(left=left, right=0.99, bottom=bottom, top=top, wspace=0.08, hspace=0.34)
    shared: Axes | None = None
    found = []
    for number in range(count):
        axes = figure.add_subplot(rows, PANEL_COLUMNS, number + 1, sharex=shared, sharey=shared)
        shared = shared or axes
        axes.tick_params(labelsize=LABEL_SIZE)
        axes.locator_params(nbins=4)
        axes.grid(visible=False)
        axes.yaxis.set_visible(number % PANEL_COLUMNS == 0)
        axes.xaxis.set_visible(number + PANEL_COLUMNS >= count)
        found.append(axes)
    return found


def _draw(axes: Axes, line: Line, style: LineStyle) -> None:
    if line.low:
        axes.fill_between(line.x, line.low, line.high, color=style.colour, alpha=0.12, linewidth=0)
    every = max(1, len(line.x) // 6)
    (drawn,) = axes.plot(line.x, line.y, color=style.colour, linestyle=style.dash, linewidth=1.2)
    drawn.set(marker=style.marker, markersize=3.5, markevery=every)


def _ticks_at_points(axes: Axes, lines: Sequence[Line]) -> None:
    """Ticks where the points are, if these are few: numbers of labels, severities."""
    places = sorted({float(x) for line in lines for x in line.x})
    if len(places) <= FEW_POINTS:
        axes.set_xticks(places, [f"{place:g}" for place in places])


def _label_ends(axes: Axes, lines: Sequence[Line], styles: Mapping[str, LineStyle]) -> None:
    """A label right of the plot for each name, at the height of its last point or as near as others allow."""
    first = {line.name: line for line in reversed(lines)}
    low, high = axes.get_ylim()
    height = axes.bbox.height / axes.figure.dpi * 72 * 0.8  # the layout, not final yet, leaves less to the axes
    gap = (high - low) * 1.15 * LABEL_SIZE / height
    ends = sorted((float(line.y[-1]), name) for name, line in first.items())
    for (value, name), place in zip(ends, spread_out([value for value, _ in ends], gap, low, high), strict=True):
        axes.annotate(
            _shown(name),
            (first[name].x[-1], value),
            (1.05, place),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=LABEL_SIZE,
            color=styles[name].colour,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": styles[name].colour,
                "linewidth": 0.5,
                "shrinkA": 1,
                "shrinkB": 3,
            },
            annotation_clip=False,
        )


def _shown(name: str) -> str:
    """A name as in the grids, which leave out the corrected semantics."""
    return name.removesuffix(" (corrected)")


def spread_out(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending places at least ``gap`` apart, nearest to the ascending ``values``, and inside [low, high] if they fit.

    Least squares by pooling neighbours that are too near (isotonic regression of the values less their gaps).
    """
    groups: list[list[float]] = []
    for number, value in enumerate(values):
        groups.append([value - number * gap])
        while len(groups) > 1 and mean(groups[-2]) > mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    free = [mean(group) for group in groups for _ in group]
    last = high - (len(free) - 1) * gap
    return [max(min(place, last), low) + number * gap for number, place in enumerate(free)]
