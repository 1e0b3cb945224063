"""Interaction plot of a factorial design: parallel lines mean that the objectives add up."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpc_jepa.report.factorial import FactorialDesign, FactorialEffect
from hpc_jepa.report.grid_plots import draw_difference
from hpc_jepa.report.plots import INK, SERIES, STYLES, render_svg


def interaction_plot(design: FactorialDesign) -> str:
    """Left: mean accuracy without and with the first factor, one line per combination of the others. Right: effects in
    points with their 95 % intervals; thin: simultaneous intervals of all effects of the study.
    """

    def draw(figure: Figure) -> None:
        means, effects = figure.subplots(1, 2, width_ratios=(1, 1.25))
        _draw_means(means, design)
        _draw_effects(effects, design.effects)

    return render_svg(draw, height=max(2.3, 0.9 + 0.24 * len(design.effects)), width=6.4)


def _draw_means(axes: Axes, design: FactorialDesign) -> None:
    first, *others = design.factors
    for number, given in enumerate(_subsets(others)):
        values = [design.means[given], design.means[given | {first}]]
        colour = SERIES[number % len(SERIES)]
        name = f"with {' and '.join(sorted(given))}" if given else f"without {' and '.join(others)}"
        style = STYLES[number % len(STYLES)]
        axes.plot([0, 1], values, color=colour, linestyle=style, marker="o", markersize=4, label=name)
    axes.set_xticks([0, 1], [f"without {first}", f"with {first}"])
    axes.set_xlim(-0.25, 1.25)
    axes.margins(y=0.15)
    axes.set_ylabel("accuracy, %")
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize=8, loc="best")


def _draw_effects(axes: Axes, effects: Sequence[FactorialEffect]) -> None:
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, effect in enumerate(reversed(effects)):
        draw_difference(axes, place, effect.contrast)
    axes.set_yticks(range(len(effects)), [effect.name for effect in reversed(effects)])
    axes.set_ylim(-0.6, len(effects) - 0.4)
    axes.set_xlabel("effect, points")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _subsets(names: Sequence[str]) -> Iterator[frozenset[str]]:
    for size in range(len(names) + 1):
        yield from map(frozenset, combinations(names, size))
