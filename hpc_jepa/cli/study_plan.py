"""What ``hpc-jepa study plan`` prints."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from hpc_jepa.config.cluster import ClusterConfig
from hpc_jepa.study.forecast import RegimeForecast, StudyForecast
from hpc_jepa.study.gpu_memory import GIB, MemoryPlan
from hpc_jepa.study.grid import StudyCell

HOUR = 3600
UNKNOWN = "?"


def show_plan(cells: Sequence[StudyCell], site: ClusterConfig, needed: StudyForecast, on_slurm: bool) -> None:
    """The variants and what judges them, what each regime takes, what all takes."""
    console = Console()
    console.print(_variants(cells))
    console.print(f"evaluated on: {_judges(cells[0])}", highlight=False, soft_wrap=True)
    console.print(_regimes(needed.regimes))
    for each in needed.regimes:
        source = each.step.source if each.step else "not known; give --step-seconds, or gpu_tflops in the profile"
        console.print(f"{each.regime}: step time {source}", highlight=False, soft_wrap=True)
        console.print(f"{each.regime}: on each GPU {_memory(each.memory)}", highlight=False, soft_wrap=True)
    folder = cells[0].config.runs / cells[0].config.study
    console.print(f"{len(cells)} runs, in {folder}/<regime>/<variant>/seed-<n>", highlight=False, soft_wrap=True)
    console.print(_sum(needed, site, len(cells), on_slurm), highlight=False, soft_wrap=True)


def _variants(cells: Sequence[StudyCell]) -> Table:
    table = Table("regime", "variant", "semantics", "seeds", "steps")
    rows: dict[tuple[str, str, str], list[StudyCell]] = {}
    for cell in cells:
        config = cell.config
        rows.setdefault((config.regime, config.variant, config.semantics.preset), []).append(cell)
    for (regime, variant, semantics), group in rows.items():
        seeds = ", ".join(str(cell.config.seed) for cell in group)
        table.add_row(regime, variant, semantics, seeds, str(group[0].config.schedule.steps))
    return table


def _judges(cell: StudyCell) -> str:
    """Benchmarks and protocols, which all cells of a study share."""
    protocols: dict[str, list[str]] = {}
    for each in cell.evaluations:
        protocols.setdefault(each.benchmark.name, []).append(each.protocol)
    return ", ".join(f"{name} ({', '.join(used)})" for name, used in protocols.items()) or "nothing"


def _regimes(regimes: Sequence[RegimeForecast]) -> Table:
    table = Table("regime", "runs", "s/step", "hours per run", "GPU-hours", "disk GiB", "GiB on each GPU")
    for each in regimes:
        table.add_row(
            each.regime,
            str(each.cells),
            f"{each.step.seconds:.3g}" if each.step else UNKNOWN,
            f"{each.seconds / HOUR:.1f}" if each.seconds is not None else UNKNOWN,
            f"{each.gpu_hours:,.0f}" if each.gpu_hours is not None else UNKNOWN,
            f"{each.disk / GIB:,.1f}",
            f"{each.memory.total / GIB:.1f}",
        )
    return table


def _memory(plan: MemoryPlan) -> str:
    parts = {
        "parameters": plan.parameters,
        "gradients": plan.gradients,
        "optimizer": plan.optimizer,
        "EMA": plan.ema,
        "activations (estimated)": plan.activations,
    }
    return ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in parts.items())


def _sum(needed: StudyForecast, site: ClusterConfig, cells: int, on_slurm: bool) -> str:
    """One line for the whole study."""
    gpus = site.train.gpus
    hours = f"{needed.gpu_hours:,.0f} GPU-hours, " if needed.gpu_hours is not None and gpus else ""
    days = f"{needed.days:.1f} days" if needed.days is not None else "unknown time"
    at_once = min(site.max_concurrent_jobs, cells)
    line = f"pretraining: {hours}{days} with {at_once} at a time; {needed.disk / GIB:,.1f} GiB of disk"
    if not on_slurm:
        return line
    arrays = f"{needed.arrays} Slurm {'array' if needed.arrays == 1 else 'arrays'} and a report"
    return f"{line}; evaluation: at most {needed.evaluation_days:.1f} days; {arrays}"
