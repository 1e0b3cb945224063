"""A figure of the schedules of a run: learning rate, weight decay, EMA momentum and context weight over its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hpc_jepa.config.phases import Ramp, value_at
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError

FORMATS = (".png", ".svg", ".pdf")
POINTS = 400
"""Steps that are drawn beside the ends of all phases."""

LINE, FAINT, INK = "#1b6ca8", "#c9ced6", "#2b2f36"
RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "hpc_jepa",
}


def plot_schedules(config: RunConfig, path: Path) -> None:
    """Write the figure. Raises InputError for a run without steps or a file that cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: not a name of a picture; end it with {', '.join(FORMATS)}")
    if not config.schedule.steps:
        raise InputError("schedule.steps: a run of 0 steps has no schedules to plot")
    schedule = config.schedule
    panels = {
        "learning rate": schedule.learning_rate,
        "weight decay": schedule.decay,
        "EMA momentum": schedule.momentum,
        "context weight": config.context_ramps,
    }
    with rc_context(RC):
        figure = Figure(figsize=(8.0, 5.0), layout="constrained")
        for (title, ramps), axes in zip(panels.items(), figure.subplots(2, 2, sharex=True).flat, strict=True):
            _draw(axes, title, ramps, schedule.steps)
        for axes in figure.axes[2:]:
            axes.set_xlabel("step")
        name = f"{config.regime}, {config.variant}: {schedule.steps:,} steps"
        figure.suptitle(name, x=0.01, ha="left", fontsize=11)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=160)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def _draw(axes: Axes, title: str, ramps: Sequence[Ramp], steps: int) -> None:
    """One quantity, with a dotted line and a value at each bend."""
    drawn = sorted(_steps(ramps, steps))
    values = [value_at(ramps, step) for step in drawn]
    axes.plot(drawn, values, color=LINE, linewidth=1.8, solid_capstyle="round", clip_on=False)
    low, high = min(values), max(values)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if low == high:
        axes.set_ylim(0, 1.25 * high or 1.0)
        axes.set_yticks([0, high] if high else [0])
    else:
        margin = 0.12 * (high - low)
        axes.set_ylim(low - 0.4 * margin, high + margin)
    axes.set_xlim(0, steps)
    axes.set_title(f"{title}: {_summary(values)}")
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.tick_params(length=3)
    bends = [ramp for ramp in ramps if ramp.initial != ramp.final]
    starts, ends = {ramp.start for ramp in bends}, {ramp.end for ramp in bends}
    for step in {step for step in starts | ends if 0 < step < steps}:
        axes.axvline(step, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
        before = step in starts - ends  # the label stands outside the ramp, so that two ends have room
        axes.annotate(
            f"{step:,.6g}", (step, 1.0), xycoords=("data", "axes fraction"), xytext=(-2 if before else 2, 0),
            textcoords="offset points", va="top", ha="right" if before else "left", fontsize=7, color=INK,
        )  # fmt: skip


def _steps(ramps: Sequence[Ramp], steps: int) -> set[int]:
    """Steps to draw: evenly spaced ones, and those beside the ends of phases, so that jumps are upright."""
    spread = {round(index * steps / POINTS) for index in range(POINTS + 1)}
    edges = {int(edge) + beside for ramp in ramps for edge in (ramp.start, ramp.end) for beside in (-1, 0, 1)}
    return spread | {step for step in edges if 0 <= step <= steps}


def _summary(values: Sequence[float]) -> str:
    """The values in short: constant, or from first to last with the extreme between."""
    first, last, low, high = values[0], values[-1], min(values), max(values)
    if low == high:
        return f"{first:.6g}"
    between = [f"{value:.6g}" for value in (high, low) if value not in (first, last)]
    return " → ".join([f"{first:.6g}", *between[:1], f"{last:.6g}"])
