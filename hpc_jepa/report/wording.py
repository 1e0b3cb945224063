"""Differences as text, and notes on how they were judged."""

from dataclasses import replace

from hpc_jepa.report.detectable import detectable_gain
from hpc_jepa.report.factorial import FactorialDesign
from hpc_jepa.report.result_grid import Contrast, ResultGrid

UNKNOWN_CLUSTERS = "°"
"""Mark of intervals that take clips as independent because their source videos are unknown."""


def signed_interval(contrast: Contrast) -> str:
    """``+2.1 points [+0.3, +3.9]``."""
    value, low, high = (contrast.signed(each, 1) for each in (contrast.points, contrast.low, contrast.high))
    return f"{value}{f' {contrast.unit}' if contrast.unit else ''} [{low}, {high}]"


def over_seeds(contrast: Contrast) -> str:
    """``over 3 seeds``."""
    return "with one common seed" if contrast.one_seed else f"over {contrast.seeds} seeds"


def judged(contrast: Contrast) -> str:
    """The verdict on a difference; that of one seed has none."""
    if contrast.one_seed:
        return "a difference between two single runs, which the seed alone can make"
    p_value = contrast.p_value if contrast.adjusted is None else contrast.adjusted
    if not contrast.significant:
        return f"not significant (Holm's p {format_p(p_value)})"
    return f"significantly {'more' if contrast.gain else 'less'} accurate (Holm's p {format_p(p_value)})"


def format_p(value: float) -> str:
    """``= 0.012`` or ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def note(grid: ResultGrid) -> str:
    """How differences were tested, what limits them, and the minimum detectable gain."""
    contrasts = [contrast for _, _, contrast in grid.all_contrasts()]
    named = grid.metrics if grid.task == "probe" else {}  # the title of a task's grid says it
    parts = [
        f"{column}: {metric.title}{'' if metric.higher_is_better else ', lower is better'}."
        for column, metric in named.items()
    ]
    if contrasts:
        units = " or ".join(dict.fromkeys(contrast.unit or "its own unit" for contrast in contrasts))
        parts.append(f"Differences to {grid.compared_with} in {units} ({' or '.join(grid.tests())}).")
    if grid.looks:
        parts.append(
            f"A sequential study at {grid.looks}: gains and losses are those of its own rule, recorded in looks.json; "
            "its error counts all looks and comparisons. Intervals and p-values are those at this look alone, not "
            "adjusted. Differences that the rule does not cover have no verdict."
        )
    elif any(contrast.in_family for contrast in contrasts):
        parts.append(
            f"Significant: at 5 % after Holm's correction over the {grid.family} comparisons that the study asks for"
            f"{'' if grid.task == 'probe' else ' in this task'}."
        )
    elif contrasts and grid.task != "probe":
        parts.append("Shown beside the columns of the task that are judged: no verdicts.")
    lone = sum(contrast.asked and contrast.one_seed for contrast in contrasts)
    if lone:
        parts.append(
            f"{lone} of {sum(contrast.asked for contrast in contrasts)} differences are between two single runs: their "
            "intervals cover the sampling of test clips alone, and none is called a gain or a loss."
        )
    dropped = {
        f"{row}: {contrast.dropped_seeds}"
        for row, _, contrast in grid.all_contrasts()
        if contrast.asked and contrast.dropped_seeds
    }
    if dropped:
        parts.append(f"Seeds that only one side has, left out of the difference: {', '.join(sorted(dropped))}.")
    if _unknown_clusters(grid):
        parts.append(f"{UNKNOWN_CLUSTERS} source videos of the clips unknown: clips count as independent.")
    gains = [detectable_gain(grid, column) for column in grid.columns]
    detectable = [replace(gain, column=grid.heading(gain.column)).sentence for gain in gains if gain is not None]
    if detectable:
        unit = " in points" if all(metric.unit == "%" for metric in grid.metrics.values()) else ""
        parts.append(
            f"Minimum detectable gain{unit} at 80 % power, alone (in brackets: as the first of the family): "
            f"{'; '.join(detectable)}."
        )
    if any(cell.untrained for cell in grid.cells.values()):
        parts.append("† evaluated on weights that no gradient reached (B1).")
    return " ".join(parts)


def cluster_mark(contrast: Contrast) -> str:
    """The mark of an interval whose clips count as independent for want of their source videos."""
    return UNKNOWN_CLUSTERS if contrast.clusters is None else ""


def factorial_note(design: FactorialDesign) -> str:
    """Seeds and source videos of the effects."""
    contrast = design.effects[0].contrast
    seeds = "one common seed, so no effect is judged" if contrast.one_seed else f"{contrast.seeds} common seeds"
    unknown = f" {UNKNOWN_CLUSTERS} source videos unknown." if contrast.clusters is None else ""
    return f"{seeds[0].upper()}{seeds[1:]}.{unknown}"


def _unknown_clusters(grid: ResultGrid) -> bool:
    return any(
        contrast.clusters is None and grid.metric(column).counted == "clips"
        for _, column, contrast in grid.all_contrasts()
    )
