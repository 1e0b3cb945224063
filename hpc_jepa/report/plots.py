"""Plots as SVG with the colours of the page, so that one plot works in light mode, dark mode and print."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpc_jepa.report.results import ResultRow
from hpc_jepa.report.run_report import RunReport

WIDTH = 5.0
"""Inches. Small, so that 9-point text stays readable on a phone."""

INK, FAINT, SOFT, CARD = "#010203", "#040506", "#070809", "#0c0d0e"
SERIES = tuple(f"#0a0b{number:02x}" for number in range(8))
"""Placeholder colours, replaced in the SVG by variables of the page."""

STYLES = ("-", "--", ":", "-.")

RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hpc_jepa",
    "font.family": "sans-serif",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
}


def accuracy_plot(rows: Sequence[ResultRow], colours: Mapping[str, int]) -> str:
    """Accuracy with its 95 % interval of the encoders of one panel, a line for each with its seeds, and random encoders
    as bands.

    ``colours``: see ``variant_colours``; one colour for all if there are more variants than colours. Target weights are
    filled dots, student weights rings.
    """
    trained: dict[tuple[str, str], list[ResultRow]] = {}
    for row in (row for row in rows if not row.is_random):
        trained.setdefault((row.name, row.weights), []).append(row)
    distinct = len({row.name for row in rows} & colours.keys()) <= len(SERIES)

    def draw(figure: Figure) -> None:
        """Whiskers in rows, the first at the top."""
        axes = figure.add_subplot()
        for row in (row for row in rows if row.is_random):
            axes.axvspan(row.low, row.high, color=FAINT, alpha=0.6, linewidth=0)
            axes.axvline(row.value, color=INK, linewidth=0.8, linestyle=":")
        for place, seeds in enumerate(reversed(trained.values())):
            for number, row in enumerate(seeds):
                colour = SERIES[colours[row.name] % len(SERIES) if distinct else 0] if row.name in colours else INK
                _whisker(axes, place + 0.3 - 0.6 * (number + 1) / (len(seeds) + 1), row, colour, small=len(seeds) > 1)
        axes.set_yticks(range(len(trained)), [_of_seeds(seeds) for seeds in reversed(trained.values())])
        axes.set_ylim(-0.6, len(trained) - 0.4)
        if any(row.is_error for row in rows):
            axes.set_xlim(left=0)
        else:
            axes.set_xlim(0, 100)
        axes.set_xlabel(rows[0].axis)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)

    return render_svg(draw, height=0.9 + 0.27 * max(len(trained), 1))


def variant_colours(runs: Sequence[RunReport]) -> dict[str, int]:
    """The place of each variant, which gives it a colour, again after the last one."""
    return {name: number for number, name in enumerate(sorted({variant_label(run) for run in runs}))}


def variant_label(run: RunReport) -> str:
    """Variant with its semantics, as in result rows."""
    return f"{run.config.variant} ({run.config.semantics_name})"


def _of_seeds(rows: Sequence[ResultRow]) -> str:
    """Encoder with its seed, or with their number."""
    first = rows[0]
    return first.encoder if len(rows) == 1 else f"{first.name}, {first.weights}, {len(rows)} seeds"


def _whisker(axes: Axes, place: float, row: ResultRow, colour: str, small: bool) -> None:
    axes.plot([row.low, row.high], [place, place], color=colour, linewidth=1 if small else 2, solid_capstyle="round")
    filled = row.weights == "target"
    axes.plot(
        row.value, place, "o", markersize=3.5 if small else 6, color=colour, markerfacecolor=colour if filled else CARD
    )


def render_svg(
    draw: Callable[[Figure], None],
    height: float,
    width: float = WIDTH,
    layout: Literal["constrained"] | None = "constrained",
) -> str:
    """A figure, with size in inches, as an <svg> element of the page. ``layout``: None if ``draw`` places its axes."""
    with rc_context(RC):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout=layout)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _themed(buffer.getvalue())


def _themed(drawing: str) -> str:
    """The bare <svg> element with colour variables. Ids of groups are removed: they would repeat on the page."""
    drawing = re.sub('<g id="[^"]*"', "<g", drawing[drawing.index("<svg") :])
    for placeholder, name in ((INK, "ink"), (FAINT, "line"), (SOFT, "soft"), (CARD, "card")):
        drawing = drawing.replace(placeholder, f"var(--{name})")
    for number, colour in enumerate(SERIES):
        drawing = drawing.replace(colour, f"var(--series-{number})")
    return drawing
