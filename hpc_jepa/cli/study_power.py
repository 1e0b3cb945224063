"""Output of ``hpc-jepa study power``."""

from rich.table import Table

from hpc_jepa.cli.console import plural, stdout_console
from hpc_jepa.evaluation.stats.planning import MOST_SEEDS
from hpc_jepa.study.power import PlannedDesign, PowerPlan

ABOUT = {
    "blocked": "same seeds, variances of all variants together",
    "paired": "same seeds, each comparison on its own",
    "unpaired": "other seeds on each side",
}


def show_power(plan: PowerPlan, source: str) -> None:
    """Print what is assumed, and seeds and cost of each difference and design."""
    console = stdout_console()
    for line in _assumptions(plan, source):
        console.print(line, soft_wrap=True)
    hours = any(each.gpu_hours is not None for each in plan.designs)
    table = Table("points", "design", "seeds", "runs", *(["GPU-hours"] if hours else []), f"power at {_seeds(plan)}")
    for each in plan.designs:
        cost = [f"{each.gpu_hours:,.0f}" if each.gpu_hours is not None else ""] if hours else []
        table.add_row(f"{each.difference:g}", each.design, _needed(each), _runs(each), *cost, f"{each.power:.0%}")
    console.print(table)
    for design, about in ABOUT.items():
        console.print(f"{design}: {about}", soft_wrap=True)
    for difference in dict.fromkeys(each.difference for each in plan.designs if each.clips):
        clips = next(each.clips for each in plan.designs if each.clips and each.difference == difference)
        console.print(
            f"{difference:g} points: {MOST_SEEDS:,} seeds do not suffice on {plan.spread.clips:,} test clips; about "
            f"{clips:,} clips would leave the seeds half of the error",
            style="yellow",
            soft_wrap=True,
        )


def _assumptions(plan: PowerPlan, source: str) -> list[str]:
    spread = plan.spread
    family = plural(plan.test.comparisons, "comparison", "comparisons")
    test = f"power {plan.target:.0%}, error {plan.test.error:g} over {family}"
    clips = f"{spread.clips:,} test clips"
    if spread.clip_error is None:
        clips += ", of which the difference changes as few as possible"
    else:
        clips += f", which alone give a difference a standard error of {100 * spread.clip_error:.2f}"
    return [
        f"{test} (the smallest p-value must be below {plan.test.level:.2g})",
        f"{source}: seeds of a variant vary by {100 * spread.seeds:.2f} points, with correlation "
        f"{spread.correlation:.2f} between variants of one seed; {clips}",
        f"{plural(plan.arms, 'run', 'runs')} for each seed: every variant and baseline of every regime",
    ]


def _seeds(plan: PowerPlan) -> str:
    return plural(max(plan.seeds, 2), "seed", "seeds")


def _needed(each: PlannedDesign) -> str:
    return f"over {MOST_SEEDS:,}" if each.seeds is None else f"{each.seeds:,}"


def _runs(each: PlannedDesign) -> str:
    return "" if each.runs is None else f"{each.runs:,}"
