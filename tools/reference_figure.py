"""The figure of the reference study: differences to the baselines on every benchmark."""

import hashlib
import re

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from reference_tables import ReferenceStudy, blocks, display_order

from hpc_jepa.report.comparisons import ColumnScores
from hpc_jepa.report.grid_plots import draw_difference
from hpc_jepa.report.plots import INK, SOFT, render_svg

COLOURS = {
    **{"ink": "#24292f", "line": "#d0d7de", "soft": "#6e7781", "card": "#ffffff"},
    **{"series-1": "#b04a00", "series-2": "#00734f"},
}
"""Of the page in light mode: the figure stands on white wherever it is shown."""

DIGEST = re.compile(r"<desc>tables (\w+)</desc>")


def figure_svg(study: ReferenceStudy) -> str:
    """One panel per benchmark, with the same rows in the same order: that of the first benchmark."""
    rows = [row for row in display_order(study, study.columns[0]) if row in study.contrasts(study.columns[0])]
    rows.reverse()
    published = sum(row.endswith(")") for row in rows)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(study.columns), sharey=True, squeeze=False)[0]
        for axes, column in zip(panels, study.columns, strict=True):
            _panel(axes, study, column, rows)
            axes.axhline(published - 0.5, color=SOFT, linewidth=0.6, linestyle=":")
        panels[0].set_yticks(range(len(rows)), rows)
        panels[0].set_ylim(-0.7, len(rows) - 0.3)
        figure.supxlabel("difference to the baseline of the same semantics, points", fontsize=9)

    drawing = render_svg(draw, height=0.9 + 0.2 * len(rows), width=1.6 + 2.9 * len(study.columns))
    for name, colour in COLOURS.items():
        drawing = drawing.replace(f"var(--{name})", colour)
    return _on_white(drawing, digest(study)) + "\n"


def digest(study: ReferenceStudy) -> str:
    """Of the numbers that the figure shows."""
    shown = [text for name, text in blocks(study).items() if name.startswith("differences")]
    return hashlib.sha256("\n".join(shown).encode()).hexdigest()[:16]


def _panel(axes: Axes, study: ReferenceStudy, column: ColumnScores, rows: list[str]) -> None:
    contrasts = study.contrasts(column)
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, row in enumerate(rows):
        draw_difference(axes, place, contrasts[row])
    seeds = max(contrast.seeds for contrast in contrasts.values())
    facts = study.grid.column_facts(str(column.column)).partition(" of ")[0]
    axes.set_title(f"{column.column.benchmark}: {facts}, {seeds} seed{'s' if seeds > 1 else ''}", fontsize=9)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _on_white(drawing: str, tables: str) -> str:
    """With a white ground and the digest of the tables as its description."""
    opened = drawing.index(">") + 1
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f"{drawing[:opened]}<desc>tables {tables}</desc>{ground}{drawing[opened:]}"
