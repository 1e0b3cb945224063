"""Plots of ``bench_scaling.py``: measurements and predictions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LINE = 110
"""Characters per line of a title."""

RC = {
    "font.size": 9,
    "figure.titlesize": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "savefig.dpi": 140,
}
MEASURED, IDEAL, NETWORKS = "#1f5fa8", "#888888", ("#1f5fa8", "#b3541e")


def draw_measured(result: Mapping[str, Any], path: Path) -> None:
    """Four panels: milliseconds of a step over clips, tokens, objectives and processes."""
    shape = result["shape"]

    def paint(figure: Figure) -> None:
        panels = figure.subplots(2, 2)
        _clips(panels[0, 0], result)
        _tokens(panels[0, 1], result)
        _objectives(panels[1, 0], result)
        _processes(panels[1, 1], result)
        figure.suptitle(
            f"One step, measured: model {shape['model']}, clips of {shape['frames']}x{shape['pixels']}x"
            f"{shape['pixels']} where not varied, medians; {result['device']}"
        )

    _save(paint, path, (8.2, 6.2))


def draw_predicted(rows: Sequence[Mapping[str, Any]], assumed: str, path: Path) -> None:
    """Efficiency over GPUs: a band from no to full overlap of communication and compute."""

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        models = list(dict.fromkeys(row["model"] for row in rows))
        for axes, model in zip(panels, models, strict=True):
            _efficiency(axes, [row for row in rows if row["model"] == model])
            axes.set_title(f"PREDICTION: {model}")
        panels[0].set_ylabel("efficiency, % of one GPU's clips/s on each")
        panels[0].legend(loc="lower left")
        figure.suptitle(fill(f"Not measured: {assumed}", LINE))

    _save(paint, path, (8.2, 4.0))


def _clips(axes: Axes, result: Mapping[str, Any]) -> None:
    clips, spent = _numbers(result["clips"])
    ideal = [spent[-1] * count / clips[-1] for count in clips]
    axes.plot(clips, ideal, "--", color=IDEAL, label="proportional to clips")
    axes.plot(clips, spent, "o-", color=MEASURED, label="measured")
    _label(axes, "clips in a step", clips)
    axes.legend(loc="upper left")


def _tokens(axes: Axes, result: Mapping[str, Any]) -> None:
    tokens, values = [int(count) for count in result["tokens"]], list(result["tokens"].values())
    ideal = [values[-1]["ms"] * each["gflop"] / values[-1]["gflop"] for each in values]
    axes.plot(tokens, ideal, "--", color=IDEAL, label="proportional to FLOP")
    axes.plot(tokens, [each["ms"] for each in values], "o-", color=MEASURED, label="measured")
    names = [f"{count}\n{each['pixels']} px" for count, each in zip(tokens, values, strict=True)]
    _label(axes, f"tokens of a clip, {result['shape']['clips']} clips", tokens, names)
    axes.legend(loc="upper left")


def _objectives(axes: Axes, result: Mapping[str, Any]) -> None:
    counts, spent = _numbers(result["objectives"])
    axes.axhline(spent[0], linestyle="--", color=IDEAL, label="baseline")
    axes.bar(counts, spent, width=0.55, color=MEASURED)
    for count, milliseconds in zip(counts[1:], spent[1:], strict=True):
        more = round(milliseconds / spent[0] - 1, 2) + 0.0  # no -0 %
        axes.annotate(f"{more:+.0%}", (count, milliseconds), ha="center", va="bottom")
    axes.set_xticks(counts, ["baseline", *(f"+ {name}" for name in result["added"])])
    axes.set_xlabel(f"objectives, added from left to right, {result['shape']['clips']} clips")
    axes.set_ylabel("ms of a step")
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 1.2 * max(spent))


def _processes(axes: Axes, result: Mapping[str, Any]) -> None:
    counts, spent = _numbers(result["processes"])
    threads = result["hardware_threads"]
    axes.plot(counts, [spent[0] / count for count in counts], "--", color=IDEAL, label="ideal: one core per process")
    floor = [spent[0] / min(count, threads) for count in counts]
    axes.plot(counts, floor, ":", color=IDEAL, label=f"ideal: {threads} cores in all")
    axes.plot(counts, spent, "o-", color=MEASURED, label="measured")
    _label(axes, f"processes that share {result['shape']['shared_clips']} clips, one thread each", counts)
    axes.legend(loc="lower left")


def _efficiency(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for network, colour in zip(dict.fromkeys(row["network"] for row in rows), NETWORKS, strict=True):
        line = [row for row in rows if row["network"] == network]
        gpus = [row["gpus"] for row in line]
        low, high = ([100 * row[name] for row in line] for name in ("efficiency", "overlapped_efficiency"))
        axes.fill_between(gpus, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(gpus, low, "--", color=colour, label=f"{network} for each node")
    axes.axhline(100, color=IDEAL, linewidth=0.8)
    _logarithmic(axes, gpus)
    axes.set_xlabel("GPUs, 8 in a node")
    axes.set_ylim(0, 105)


def _numbers(values: Mapping[str, float]) -> tuple[list[int], list[float]]:
    return [int(key) for key in values], list(values.values())


def _label(axes: Axes, x: str, ticks: Sequence[int], names: Sequence[str] | None = None) -> None:
    """Logarithmic axes: proportionality is a straight line."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    _logarithmic(axes, ticks, names)
    axes.set_xlabel(x)
    axes.set_ylabel("ms of a step")


def _logarithmic(axes: Axes, ticks: Sequence[int], names: Sequence[str] | None = None) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, names or [str(tick) for tick in ticks])
    axes.minorticks_on()
    axes.xaxis.minorticks_off()


def _save(paint: Callable[[Figure], None], path: Path, inches: tuple[float, float]) -> None:
    with rc_context(RC):  # type: ignore[arg-type]
        figure = Figure(figsize=inches, layout="constrained")
        paint(figure)
        figure.savefig(path, metadata={"Software": None})
