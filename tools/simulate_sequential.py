#!/usr/bin/env python3
"""Simulated sequential studies with known truth: false decisions, power, and runs used beside a fixed design.

    python tools/simulate_sequential.py --quick                  a few grids, in seconds
    python tools/simulate_sequential.py                          2,000 grids without any difference: family-wise error
    python tools/simulate_sequential.py --gain 0.05 --gain 0.05 --gain 0.05
                                                                 three real gains of 5 points among 27 variants
    python tools/simulate_sequential.py --gain 0.05 --rule e-process --rule pocock
    python tools/simulate_sequential.py --look 2 --look 3 --prefix 0.2 --confirm 5 --prefix-gain 0.7 --gain 0.08
                                                                 looks after a fifth of the steps, fresh seeds decide

Each grid is drawn with all seeds; a look sees the seeds that its open variants have. The fixed design gives every
variant the same number of seeds and decides by Holm; the number with the power of the sequential one is interpolated.
With --prefix the looks see runs of a part of the steps and only select, and fresh seeds of all steps decide; runs are
then counted in whole ones.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table
from scipy.stats import norm
from simulated_grids import Design, Grid, draw_grid
from simulated_looks import errors_and_power, seeds_from, select_and_confirm, take_looks
from timing import one_line_errors, quick_option

from hpc_jepa.cli.console import stdout_console
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.blocked import compare_with_reference
from hpc_jepa.evaluation.stats.sequential import Decision, SequentialRule, boundaries

MIXTURE_VARIANCE = 1.0
"""Of the e-process: variance of the effects it bets on, in units of the variance of a difference of one seed."""


@dataclass(frozen=True)
class EProcessRule(SequentialRule):
    """Gains and losses by the normal mixture (Robbins 1970), valid at any look, of the normal score of the p-value."""

    def difference_level(self, look: int, found: int = 0) -> float:
        """The e-value must reach the number of comparisons by the error (Ville's inequality)."""
        ratio = self.looks[look] * MIXTURE_VARIANCE
        evidence = np.log(max(self.comparisons - found, 1) / self.error) + np.log1p(ratio) / 2
        return 2 * float(norm.sf(np.sqrt(2 * (1 + ratio) / ratio * evidence)))


@dataclass(frozen=True)
class PocockRule(SequentialRule):
    """Gains and losses with Pocock's spending: nearly equal levels at all looks."""

    def difference_level(self, look: int, found: int = 0) -> float:
        """Levels by the same integration as the shipped rule's."""
        return 2 * float(norm.sf(pocock_bounds(self.looks, self.error / 2 / max(self.comparisons - found, 1))[look]))


@cache
def pocock_bounds(looks: tuple[int, ...], error: float) -> NDArray[np.float64]:
    """One-sided bounds that spend ``error``."""
    information = np.array(looks) / looks[-1]
    spent = error * np.log1p((np.e - 1) * information)
    return boundaries(information.tolist(), spent.tolist())


RULES = {"spending": SequentialRule, "e-process": EProcessRule, "pocock": PocockRule}


@dataclass
class Tally:
    """What one rule did. Lists have one entry per grid."""

    false: list[bool] = field(default_factory=list)
    false_equal: list[bool] = field(default_factory=list)
    found: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)
    decisions: Counter[Decision] = field(default_factory=Counter)

    def add(self, grid: Grid, margin: float, decisions: Mapping[str, Decision], runs: float) -> None:
        """Count one grid."""
        truth = grid.truth
        wrong, power = errors_and_power(truth, decisions)
        self.false.append(wrong)
        self.found += power
        self.false_equal.append(any(d == "equal" and abs(truth[name]) >= margin for name, d in decisions.items()))
        self.runs.append(runs)
        for name, decision in decisions.items():
            if not truth[name]:
                self.decisions[decision] += 1

    def summary(self, fixed: Mapping[int, float], variants: int) -> dict[str, Any]:
        """Figures in percent; ``fixed``: power by number of seeds."""
        grids, total = len(self.runs), self.decisions.total()
        power = float(np.mean(self.found)) if self.found else None
        seeds = None if power is None else equal_power_seeds(fixed, power)
        runs = float(np.mean(self.runs))
        return {
            "grids": grids,
            "family_wise_error": 100 * float(np.mean(self.false)),
            "family_wise_error_se": 100 * float(np.sqrt(max(float(np.mean(self.false)), 1 / grids) / grids)),
            "false_equal": 100 * float(np.mean(self.false_equal)),
            "power": None if power is None else 100 * power,
            "runs": runs,
            "fixed_seeds": seeds,
            "of_fixed_runs": None if seeds is None else 100 * runs / (seeds * variants),
            "nulls": {decision: 100 * count / total for decision, count in self.decisions.items()},
        }


def fixed_power(grid: Grid, seeds: int, error: float, begin: int = 0) -> float:
    """Share of the real differences that Holm finds with ``seeds`` of every variant, from seed ``begin``."""
    variants = {name: seeds_from(scores, begin, seeds) for name, scores in grid.variants.items()}
    found = compare_with_reference(variants, seeds_from(grid.reference, begin, seeds), grid.clusters)
    signs = {name: "gain" if each.value > 0 else "loss" for name, each in found.items() if each.adjusted_p < error}
    _, power = errors_and_power(grid.truth, {name: signs.get(name) for name in grid.truth})
    return float(np.mean(power))


def equal_power_seeds(fixed: Mapping[int, float], power: float) -> float | None:
    """Number of seeds with this power, interpolated; None outside of the numbers that were simulated."""
    seeds = np.array(sorted(fixed))
    powers: NDArray[np.float64] = np.maximum.accumulate([fixed[number] for number in seeds])
    if not powers[0] <= power <= powers[-1]:
        return None
    return float(np.interp(power, powers, seeds))


def simulate(
    design: Design,
    rules: Mapping[str, SequentialRule],
    grids: int,
    fixed_grids: int,
    seed: int,
    prefix: float | None = None,
) -> dict[str, Any]:
    """Figures of all rules on the same grids, and the power of fixed designs on the first ``fixed_grids``.

    ``prefix``: share of the steps that the looks see; None for all.
    """
    rng, tallies = np.random.default_rng(seed), {name: Tally() for name in rules}
    powers: dict[int, list[float]] = {number: [] for number in range(2, design.seeds - design.prefix_seeds + 1)}
    error = next(iter(rules.values())).error
    for number in range(grids):
        grid = draw_grid(design, rng)
        for name, rule in rules.items():
            outcome = take_looks(rule, grid) if prefix is None else select_and_confirm(rule, grid, prefix)
            tallies[name].add(grid, rule.margin, *outcome)
        if design.gains and number < fixed_grids:
            for count, found in powers.items():
                found.append(fixed_power(grid, count, error, design.prefix_seeds))
    fixed = {count: float(np.mean(found)) for count, found in powers.items() if found}
    return {
        "fixed_power": {count: 100 * power for count, power in fixed.items()},
        "rules": {name: tally.summary(fixed, design.variants) for name, tally in tallies.items()},
    }


def table_of(rules: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per rule."""
    table = Table("rule", "error", "false equal", "power", "runs", "fixed seeds", "of fixed runs", "without effect")
    for name, row in rules.items():
        table.add_row(
            name,
            f"{row['family_wise_error']:.1f} ± {row['family_wise_error_se']:.1f}",
            f"{row['false_equal']:.1f}",
            "" if row["power"] is None else f"{row['power']:.0f}",
            f"{row['runs']:.0f}",
            "" if row["fixed_seeds"] is None else f"{row['fixed_seeds']:.1f}",
            "" if row["of_fixed_runs"] is None else f"{row['of_fixed_runs']:.0f} %",
            ", ".join(f"{share:.0f} % {decision}" for decision, share in row["nulls"].items()),
        )
    return table


def named_rules(
    names: Sequence[str],
    futility: Sequence[float],
    looks: Sequence[int],
    error: float,
    margin: float,
    family: int,
    confirmation: int = 0,
) -> dict[str, SequentialRule]:
    """Every rule with every futility limit. Raises InputError for an unknown rule."""
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise InputError(f"--rule {unknown[0]}: unknown; use {', '.join(RULES)}")
    return {
        f"{name}, futility {limit:g}": RULES[name](tuple(looks), error, margin, limit, family, confirmation)
        for name in names
        for limit in futility
    }


def main(
    grids: Annotated[int, typer.Option(min=1, help="Grids.")] = 2000,
    fixed_grids: Annotated[int, typer.Option(min=1, help="Grids for the power of fixed designs.")] = 500,
    look: Annotated[list[int] | None, typer.Option(min=2, max=20, show_default="2 3 5 8")] = None,
    gain: Annotated[list[float] | None, typer.Option(help="Planted gain of a variant, in [-0.2, 0.2].")] = None,
    margin: Annotated[float, typer.Option(min=0.001, help="Within which a variant is equal.")] = 0.05,
    futility: Annotated[list[float] | None, typer.Option(min=0, max=0.99, show_default="0 0.03 0.06 0.15")] = None,
    rule: Annotated[list[str] | None, typer.Option(help=", ".join(RULES), show_default="spending")] = None,
    error: Annotated[float, typer.Option(min=0.001, max=0.5)] = 0.05,
    prefix: Annotated[
        float | None, typer.Option(min=0.001, max=0.999, help="Share of the steps that the looks see.")
    ] = None,
    prefix_gain: Annotated[float, typer.Option(min=-1, max=2, help="Share of a gain that is there by then.")] = 1.0,
    confirm: Annotated[int, typer.Option(min=2, max=20, help="Fresh seeds that decide, with --prefix.")] = 5,
    rho: Annotated[float, typer.Option(min=0, max=0.99, help="Correlation of variants of a seed.")] = 0.5,
    spread: Annotated[str, typer.Option(help="equal, alternating, random or reference.")] = "equal",
    variants: Annotated[int, typer.Option(min=2, help="Variants with the reference.")] = 28,
    clips: Annotated[int, typer.Option(min=10, help="Test clips.")] = 1200,
    videos: Annotated[
        tuple[int, int], typer.Option(help="Fewest and most clips of one source video; 1 1 for independent clips.")
    ] = (1, 1),
    random_seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
    quick: Annotated[
        bool, quick_option("10 grids, 8 variants.", grids=10, fixed_grids=3, variants=8, clips=200)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print family-wise error, power and runs of sequential rules on the same grids."""
    looks, gains = look or [2, 3, 5, 8], tuple(gain or ())
    with one_line_errors():
        if len(gains) >= variants or any(abs(each) > 0.2 for each in gains):
            raise InputError("--gain: at most one for each variant beside the reference, between -0.2 and 0.2")
        clips_per_video = None if videos == (1, 1) else videos
        kind: Any = spread
        fresh = 0 if prefix is None else confirm
        design = Design(max(looks) + fresh, rho, kind, variants, clips, clips_per_video, gains=gains)
        if prefix is not None:
            design = replace(design, prefix_seeds=max(looks), prefix_gain=prefix_gain)
        limits = futility or [0.0, 0.03, 0.06, 0.15]
        rules = named_rules(rule or ["spending"], limits, looks, error, margin, variants - 1, fresh)
        found = simulate(design, rules, grids, fixed_grids, random_seed, prefix)
    if as_json:
        typer.echo(json.dumps(found))
        return
    console = stdout_console()
    console.print(table_of(found["rules"]))
    if found["fixed_power"]:
        powers = ", ".join(f"{count} seeds {power:.0f} %" for count, power in found["fixed_power"].items())
        console.print(f"power of the fixed design: {powers}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
