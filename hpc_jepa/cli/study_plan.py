"""Output of ``hpc-jepa study plan``."""

from collections.abc import Sequence

from rich.table import Table

from hpc_jepa.cli.console import plural, stdout_console
from hpc_jepa.config.cluster import ClusterConfig
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.forecast import RegimeForecast, StudyForecast
from hpc_jepa.study.gpu_memory import GIB, MemoryPlan, poolers_bytes
from hpc_jepa.study.packing import pooled_trainings, sharing_note
from hpc_jepa.study.shapes import EXCHANGE_RATE, JobShape, ShapePrice, cheapest
from hpc_jepa.study.status import is_only_evaluated

HOUR = 3600
UNKNOWN = "?"
LAUNCH_BOUND = "the GPUs wait for kernel launches; use fewer GPUs per run, a larger batch, or engine.compile=true"


def show_plan(
    cells: Sequence[StudyCell],
    site: ClusterConfig,
    forecast: StudyForecast,
    prices: Sequence[ShapePrice],
    on_slurm: bool,
) -> None:
    """Print variants, benchmarks, the cost of each regime and of the whole study, and that of other shapes of jobs."""
    console = stdout_console()
    console.print(_variants(cells))
    console.print(f"evaluated on: {_benchmarks(cells[-1])}", highlight=False, soft_wrap=True)
    for name, size in poolers_bytes(cells[0]).items():
        console.print(f"{name}: {size / GIB:.2f} GiB on each GPU", highlight=False, soft_wrap=True)
    if forecast.regimes:
        console.print(_regimes(forecast.regimes))
    for each in forecast.regimes:
        source = each.step.source if each.step else "unknown; set --step-seconds, or gpu_tflops in the profile"
        console.print(f"{each.regime}: step time {source}", highlight=False, soft_wrap=True)
        if each.step and each.step.launch_bound:
            console.print(f"{each.regime}: {LAUNCH_BOUND}", style="yellow", highlight=False, soft_wrap=True)
        console.print(f"{each.regime}: on each GPU {_memory(each.memory)}", highlight=False, soft_wrap=True)
    for line in _places(cells):
        console.print(line, highlight=False, soft_wrap=True)
    trained = sum(map(is_only_evaluated, cells))
    console.print(_total(forecast, site, len(cells) - trained, on_slurm), highlight=False, soft_wrap=True)
    if best := cheapest(prices):
        console.print(_shapes(prices, best))
        for line in _advice(cells, site, prices, best):
            console.print(line, highlight=False, soft_wrap=True)


def _places(cells: Sequence[StudyCell]) -> list[str]:
    """Where the runs are: those of the study, and those of each other study that it reuses."""
    by_study: dict[tuple[bool, str], list[StudyCell]] = {}
    for cell in cells:
        by_study.setdefault((cell.reused, str(cell.owner.path)), []).append(cell)
    lines = []
    for (reused, folder), group in by_study.items():
        trained = f", reused: {sum(map(is_only_evaluated, group))} trained already, at no cost" if reused else ""
        lines.append(f"{plural(len(group), 'run', 'runs')}, in {folder}/<regime>/<variant>/seed-<n>{trained}")
    return sorted(lines, key=lambda line: ", reused: " in line)


def _variants(cells: Sequence[StudyCell]) -> Table:
    table = Table("regime", "variant", "semantics", "seeds", "steps")
    rows: dict[tuple[str, str, str, int], list[StudyCell]] = {}
    for cell in cells:
        config = cell.config
        rows.setdefault((config.regime, config.variant, config.semantics_name, cell.steps), []).append(cell)
    for (regime, variant, semantics, steps), group in rows.items():
        seeds = ", ".join(str(cell.config.seed) for cell in group)
        table.add_row(regime, variant, semantics, seeds, str(steps))
    return table


def _benchmarks(cell: StudyCell) -> str:
    """Benchmarks, protocols and tasks; all cells of a study share them."""
    protocols: dict[str, list[str]] = {}
    for each in cell.evaluations:
        task = "" if each.task == "probe" else f" {each.task}"
        protocols.setdefault(each.benchmark.name, []).append(f"{each.protocol}{task}")
    return ", ".join(f"{name} ({', '.join(used)})" for name, used in protocols.items()) or "nothing"


def _regimes(regimes: Sequence[RegimeForecast]) -> Table:
    table = Table("regime", "runs", "s/step", "hours per run", "GPU-hours", "disk GiB", "GiB on each GPU")
    for regime in regimes:
        table.add_row(
            regime.regime,
            str(regime.cells),
            f"{regime.step.seconds:.3g}" if regime.step else UNKNOWN,
            f"{regime.seconds / HOUR:.1f}" if regime.seconds is not None else UNKNOWN,
            f"{regime.gpu_hours:,.0f}" if regime.gpu_hours is not None else UNKNOWN,
            f"{regime.disk / GIB:,.1f}",
            f"{regime.memory.total / GIB:.1f}",
        )
    return table


def _shapes(prices: Sequence[ShapePrice], best: ShapePrice) -> Table:
    """A row for each shape; one that is impossible has a reason in place of its numbers."""
    table = Table("cells in a job", "hours per run", "hours in all", "GPU-hours", "", box=None, pad_edge=False)
    for price in prices:
        marks = [*(["profile"] if price.is_current else []), *(["cheapest"] if price == best else [])]
        numbers = ("", "", "")
        if price.hours is not None and price.gpu_hours is not None and price.days is not None:
            numbers = (f"{price.hours:.1f}", f"{24 * price.days:,.1f}", f"{price.gpu_hours:,.0f}")
        table.add_row(_shape(price.shape), *numbers, price.refused or ", ".join(marks))
    return table


def _shape(shape: JobShape) -> str:
    gpus = "1/2 GPU" if shape.cells_per_gpu == 2 else plural(shape.gpus_per_cell, "GPU", "GPUs")
    return f"{shape.cells_per_job} x {gpus}"


def _advice(
    cells: Sequence[StudyCell], site: ClusterConfig, prices: Sequence[ShapePrice], best: ShapePrice
) -> list[str]:
    """What the prices rest on, and how to get the cheapest shape."""
    basis = f"{EXCHANGE_RATE / 1e9:g} GB/s between the GPUs of a node" if site.gpu_tflops else "proportional to GPUs"
    lines = [
        f"other shapes: estimated ({basis}); a node costs all its GPUs until its last cell ends, the idle ones too"
    ]
    if best.is_current:
        return [*lines, "the shape of the profile is the cheapest"]
    shape = best.shape
    keys = {"cells_per_job": shape.cells_per_job, "gpus_per_cell": shape.gpus_per_cell}
    keys |= {"cells_per_gpu": shape.cells_per_gpu} if shape.cells_per_gpu > 1 else {}
    now = next((price.gpu_hours for price in prices if price.is_current), None)
    saved = "" if now is None else f", {1 - (best.gpu_hours or 0) / now:.0%} less than now"
    text = ", ".join(f"{key}: {value}" for key, value in keys.items())
    lines.append(f"cheapest: train: {{{text}}}{saved}")
    return [*lines, sharing_note(pooled_trainings(cells))] if shape.cells_per_job > 1 else lines


def _memory(plan: MemoryPlan) -> str:
    parts = {
        "parameters": plan.parameters,
        "gradients": plan.gradients,
        "optimizer": plan.optimizer,
        "EMA": plan.ema,
        "activations (estimated)": plan.activations,
    }
    return ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in parts.items())


def _total(forecast: StudyForecast, site: ClusterConfig, cells: int, on_slurm: bool) -> str:
    """One line about the whole study."""
    gpus = site.train.gpus
    hours = f"{forecast.gpu_hours:,.0f} GPU-hours, " if forecast.gpu_hours is not None and gpus else ""
    days = _hours_or_days(forecast.days) if forecast.days is not None else "unknown time"
    at_once = min(site.max_concurrent_jobs * site.train.cells_per_job, max(cells, 1))
    line = f"pretraining: {hours}{days} with {at_once} at a time; {forecast.disk / GIB:,.1f} GiB of disk"
    if not on_slurm:
        return line
    arrays = f"{forecast.arrays} Slurm {'array' if forecast.arrays == 1 else 'arrays'} and a report"
    return f"{line}; evaluation: at most {_hours_or_days(forecast.evaluation_days)}; {arrays}"


def _hours_or_days(days: float) -> str:
    return f"{days:.1f} days" if days >= 2 else f"{24 * days:.1f} hours"
