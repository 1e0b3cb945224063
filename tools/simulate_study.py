#!/usr/bin/env python3
"""Simulated studies with known truth: do the intervals and decisions of a report hold what they promise?

    python tools/simulate_study.py --quick                       a few grids of every kind, in seconds
    python tools/simulate_study.py                               2,000 grids for each of 48 designs, half an hour
    python tools/simulate_study.py --seeds 3 --rho 0.5 --gain 0.03 --gain 0.03 --gain 0.03
                                                                 power for three real gains of 3 points
    python tools/simulate_study.py --seeds 3 --rho 0.5 --missing 0.1 --unbalanced
    python tools/simulate_study.py --draws 10                    few-shot studies, whose draws of labels vary
    python tools/simulate_study.py --seeds 8 --rho 0.5 --looks 2 --looks 3 --looks 5 --looks 8 --gain 0.06
                                                                 the runs that a sequential study needs

For every design: coverage of the 95 % intervals (those of one seed leave the seeds out and count only if there are no
others), family-wise error of the decisions, coverage of all simultaneous intervals together, power where gains are
planted, half-widths in points, and the half-width and coverage of the method of release 0.1, a bootstrap that took the
seeds of both sides as unpaired. With --looks also the runs, errors and power of the sequential study. With --records
some grids are also written as a study with records, and the report read from them must give the same comparisons.
"""

import itertools
import json
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from former_statistics import former_difference
from rich.table import Table
from simulated_grids import Design, Grid, Spread, draw_grid
from simulated_looks import errors_and_power, take_looks
from simulated_report import verdicts
from timing import one_line_errors, quick_option

from hpc_jepa.cli.console import stdout_console
from hpc_jepa.config.sequential import SequentialConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.blocked import Comparison, compare_with_reference
from hpc_jepa.evaluation.stats.sequential import SequentialRule
from hpc_jepa.report.result_grid import Contrast

QUICK = {"grids": 20, "seeds": [1, 3], "rho": [0.5], "spread": ["equal", "random"], "clips": 400, "records": 1}

FORMER_GRIDS = 50
FORMER_VARIANTS = 3
FORMER_RESAMPLES = 2000


@dataclass
class Tally:
    """What happened in the grids of one design. Lists have one entry per grid."""

    covered: list[float] = field(default_factory=list)
    together: list[bool] = field(default_factory=list)
    false: list[bool] = field(default_factory=list)
    found: list[float] = field(default_factory=list)
    half_widths: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    methods: Counter[str] = field(default_factory=Counter)
    former_covered: list[float] = field(default_factory=list)
    covered_without_draws: list[float] = field(default_factory=list)
    former_half_widths: list[float] = field(default_factory=list)
    half_widths_beside: list[float] = field(default_factory=list)
    agreed: list[bool] = field(default_factory=list)
    variances: list[float] = field(default_factory=list)
    covariances: list[float] = field(default_factory=list)
    sequential_runs: list[int] = field(default_factory=list)
    sequential_false: list[bool] = field(default_factory=list)
    sequential_found: list[float] = field(default_factory=list)

    def add(self, grid: Grid, found: dict[str, Comparison]) -> None:
        """Count one grid."""
        truth = grid.truth
        several = [name for name in truth if found[name].seeds > 1] or list(truth)
        self.covered.append(float(np.mean([found[name].low <= truth[name] <= found[name].high for name in several])))
        ends = {name: found[name].simultaneous for name in truth if found[name].seeds > 1}
        self.together.append(all(low <= truth[name] <= high for name, (low, high) in ends.items()))
        wrong, power = errors_and_power(truth, {name: found[name].decided for name in truth})
        self.false.append(wrong)
        self.found += power
        self._add_correlation(grid)
        self.half_widths.append(_half_width([(one.low, one.high) for one in found.values()]))
        self.runs.append(grid.runs)
        self.methods.update(one.method for one in found.values())

    def _add_correlation(self, grid: Grid) -> None:
        """Variance of accuracies between seeds, and covariance of those of one seed, if no run is missing."""
        runs = [grid.reference, *grid.variants.values()]
        seeds = set.intersection(*map(set, runs))
        if len(seeds) > 1:
            covariance = np.cov([[float(scores[seed].mean()) for seed in seeds] for scores in runs])
            self.variances.append(float(covariance.diagonal().mean()))
            self.covariances.append(float(covariance[~np.eye(len(runs), dtype=bool)].mean()))

    def add_sequential(self, grid: Grid, rule: SequentialRule) -> None:
        """Count one grid that is looked at while seeds are added."""
        decisions, runs = take_looks(rule, grid)
        self.sequential_runs.append(runs)
        wrong, power = errors_and_power(grid.truth, decisions)
        self.sequential_false.append(wrong)
        self.sequential_found += power

    def add_records(self, grid: Grid, found: dict[str, Comparison]) -> None:
        """Write the grid as records, and hold what the report says against ``found``."""
        with tempfile.TemporaryDirectory() as folder:
            said = verdicts(grid, Path(folder))
        self.agreed.append(said.keys() == found.keys() and all(_agree(said[name], found[name]) for name in found))

    def add_without_draws(self, grid: Grid) -> None:
        """Count the intervals that take the draws of labels as known."""
        known = {name: dict(scores) for name, scores in grid.variants.items()}
        found = compare_with_reference(known, dict(grid.reference), grid.clusters)
        inside = [found[name].low <= truth <= found[name].high for name, truth in grid.truth.items()]
        self.covered_without_draws.append(float(np.mean(inside)))

    def add_former(self, grid: Grid, found: dict[str, Comparison], rng: np.random.Generator) -> None:
        """Count the former method for the first variants of one grid."""
        names = list(grid.truth)[:FORMER_VARIANTS]
        former = [former_difference(grid.variants[name], grid.reference, rng, FORMER_RESAMPLES) for name in names]
        ends = [(one.low, one.high) for one in former]
        inside = [low <= grid.truth[name] <= high for name, (low, high) in zip(names, ends, strict=True)]
        self.former_covered.append(float(np.mean(inside)))
        self.former_half_widths.append(_half_width(ends))
        self.half_widths_beside.append(_half_width([(found[name].low, found[name].high) for name in names]))

    def summary(self) -> dict[str, Any]:
        """Figures in percent, half-widths in points."""
        grids = len(self.covered)
        return {
            "grids": grids,
            "coverage": 100 * float(np.mean(self.covered)),
            "coverage_se": 100 * float(np.std(self.covered) / np.sqrt(grids)),
            "simultaneous_coverage": 100 * float(np.mean(self.together)),
            "family_wise_error": 100 * float(np.mean(self.false)),
            "power": 100 * float(np.mean(self.found)) if self.found else None,
            "half_width": 100 * float(np.mean(self.half_widths)),
            "median_half_width": 100 * float(np.median(self.half_widths)),
            "coverage_without_draws": 100 * float(np.mean(self.covered_without_draws))
            if self.covered_without_draws
            else None,
            **self._former_summary(),
            "runs": float(np.mean(self.runs)),
            "methods": dict(self.methods),
            "correlation": float(np.sum(self.covariances) / np.sum(self.variances)) if self.variances else None,
            "records_checked": len(self.agreed),
            "records_agree": all(self.agreed),
            **self._sequential_summary(),
        }

    def _former_summary(self) -> dict[str, Any]:
        if not self.former_covered:
            return {"former_coverage": None, "former_half_width": None, "half_width_ratio": None}
        return {
            "former_coverage": 100 * float(np.mean(self.former_covered)),
            "former_half_width": 100 * float(np.mean(self.former_half_widths)),
            "half_width_ratio": float(np.mean(self.half_widths_beside) / np.mean(self.former_half_widths)),
        }

    def _sequential_summary(self) -> dict[str, Any]:
        if not self.sequential_runs:
            return {}
        return {
            "sequential_runs": float(np.mean(self.sequential_runs)),
            "sequential_error": 100 * float(np.mean(self.sequential_false)),
            "sequential_power": 100 * float(np.mean(self.sequential_found)) if self.sequential_found else None,
        }


def simulate(design: Design, grids: int, seed: int, looks: tuple[int, ...] = (), records: int = 0) -> dict[str, Any]:
    """Figures of ``grids`` grids of one design. ``looks``: seeds at each look of a sequential study.

    ``records``: grids that also go through record files and the report.
    """
    rule = sequential_rule(looks, design.variants - 1) if looks else None
    rng, tally = np.random.default_rng([seed, design.seeds, round(100 * design.rho)]), Tally()
    for number in range(grids):
        grid = draw_grid(design, rng)
        found = compare_with_reference(grid.variants, grid.reference, grid.clusters)
        tally.add(grid, found)
        if number < records:
            tally.add_records(grid, found)
        if rule is not None:
            tally.add_sequential(grid, rule)
        if design.draws:
            tally.add_without_draws(grid)
        elif number < FORMER_GRIDS:
            tally.add_former(grid, found, rng)
    return {**asdict(design), **tally.summary()}


def sequential_rule(looks: tuple[int, ...], comparisons: int) -> SequentialRule:
    """The rule of a study with the default error, margin and futility."""
    config = SequentialConfig(looks=looks)
    return SequentialRule(config.looks, config.error, config.margin / 100, config.futility, comparisons)


def _agree(said: Contrast, found: Comparison) -> bool:
    """Whether a cell of the report is the comparison to the digit, and the same gain or loss."""
    decided = ("gain" if said.points > 0 else "loss") if said.significant else None
    values = [said.points / 100, said.low / 100, said.high / 100, said.p_value]
    equal = np.allclose(values, [found.value, found.low, found.high, found.p_value], rtol=1e-9, atol=1e-12)
    return equal and decided == found.decided and said.dropped_seeds == found.dropped_seeds


def _half_width(ends: list[tuple[float, float]]) -> float:
    return float(np.mean([high - low for low, high in ends])) / 2


def table_of(results: list[dict[str, Any]]) -> Table:
    """One row per design."""
    table = Table()
    for title in ("seeds", "rho", "spread", "coverage", "simultaneous", "error", "power", "half-width", "of former"):
        table.add_column(title, justify="right")
    table.add_column("former covers", justify="right")
    sequential = any("sequential_runs" in row for row in results)
    for title in ("sequential runs", "error", "power") if sequential else ():
        table.add_column(title, justify="right")
    for row in results:
        table.add_row(
            str(row["seeds"]),
            f"{row['rho']:g}",
            row["spread"],
            f"{row['coverage']:.1f} ± {row['coverage_se']:.1f}",
            f"{row['simultaneous_coverage']:.1f}",
            f"{row['family_wise_error']:.1f}",
            "" if row["power"] is None else f"{row['power']:.0f}",
            f"{row['half_width']:.2f}",
            "" if row["half_width_ratio"] is None else f"{row['half_width_ratio']:.2f}",
            "" if row["former_coverage"] is None else f"{row['former_coverage']:.1f}",
            *_sequential_cells(row),
        )
    return table


def _without_draws(row: dict[str, Any]) -> str:
    covered = row["coverage_without_draws"]
    return "" if covered is None else f"with the draws taken as known it would be {covered:.1f}; "


def _sequential_cells(row: dict[str, Any]) -> list[str]:
    if "sequential_runs" not in row:
        return []
    power = "" if row["sequential_power"] is None else f"{row['sequential_power']:.0f}"
    return [f"{row['sequential_runs']:.0f} of {row['runs']:.0f}", f"{row['sequential_error']:.1f}", power]


def main(
    grids: Annotated[int, typer.Option(min=1, help="Grids for each design.")] = 2000,
    seeds: Annotated[list[int] | None, typer.Option(min=1, max=8, help="Pretraining seeds, repeatable.")] = None,
    rho: Annotated[list[float] | None, typer.Option(min=0, max=0.99, help="Correlation of variants of a seed.")] = None,
    spread: Annotated[
        list[str] | None, typer.Option(help="equal, alternating, random or reference: which runs vary threefold.")
    ] = None,
    variants: Annotated[int, typer.Option(min=2, help="Variants with the reference.")] = 28,
    clips: Annotated[int, typer.Option(min=10, help="Test clips.")] = 1200,
    videos: Annotated[
        tuple[int, int], typer.Option(help="Fewest and most clips of one source video; 1 1 for independent clips.")
    ] = (5, 20),
    seed_std: Annotated[float, typer.Option(min=0, max=0.05, help="Standard deviation between seeds.")] = 0.03,
    unbalanced: Annotated[bool, typer.Option("--unbalanced", help="Classes of unequal sizes.")] = False,
    missing: Annotated[float, typer.Option(min=0, max=0.9, help="Share of runs that are missing.")] = 0.0,
    gain: Annotated[list[float] | None, typer.Option(help="Planted gain of a variant, in [-0.2, 0.2].")] = None,
    looks: Annotated[
        list[int] | None, typer.Option(min=2, help="Seeds at a look of a sequential study, repeatable, increasing.")
    ] = None,
    draws: Annotated[int, typer.Option(min=0, help="Draws of labels of a few-shot study; 0 for probes.")] = 0,
    draw_std: Annotated[
        float, typer.Option(min=0, max=0.05, help="Standard deviation of what a draw does to a variant.")
    ] = 0.03,
    records: Annotated[int, typer.Option(min=0, help="Grids of each design that also go through record files.")] = 0,
    random_seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
    quick: Annotated[bool, quick_option("20 grids of four designs.", **QUICK)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print coverage, family-wise error, power and half-widths for every design."""
    kinds: list[Any] = spread or ["equal", "alternating", "random", "reference"]
    designs = [
        Design(
            seeds=s,
            rho=r,
            spread=kind,
            variants=variants,
            clips=clips,
            clips_per_video=None if videos == (1, 1) else videos,
            unbalanced=unbalanced,
            missing=missing,
            gains=tuple(gain or ()),
            seed_std=seed_std,
            draws=draws,
            draw_std=draw_std,
        )
        for kind, s, r in itertools.product(kinds, seeds or [2, 3, 5, 8], rho or [0.0, 0.5, 0.9])
    ]
    results = []
    with one_line_errors():
        _check(designs, tuple(looks or ()))
        if draws == 1 or (draws and (records or looks)):
            raise InputError("--draws: at least 2, without --records and --looks")
        for number, design in enumerate(designs):
            started = time.monotonic()
            results.append(simulate(design, grids, random_seed, tuple(looks or ()), records))
            row = results[-1]
            typer.echo(
                f"{number + 1}/{len(designs)}: {design.seeds} seeds, rho {design.rho:g}, {design.spread}: coverage "
                f"{row['coverage']:.1f}, error {row['family_wise_error']:.1f}, half-width {row['half_width']:.2f} "
                f"points; {_without_draws(row)}"
                f"{grids / (time.monotonic() - started):.0f} grids/s",
                err=True,
            )
    if as_json:
        typer.echo(json.dumps({"designs": results}))
    else:
        stdout_console().print(table_of(results))
    if not all(row["records_agree"] for row in results):
        typer.echo("error: a report read from records differs from the comparisons of the same scores", err=True)
        raise typer.Exit(1)


def _check(designs: list[Design], looks: tuple[int, ...]) -> None:
    spreads = {design.spread for design in designs} - set(Spread.__args__)  # type: ignore[attr-defined]
    if spreads:
        raise InputError(f"--spread: unknown: {', '.join(sorted(spreads))}; use {', '.join(Spread.__args__)}")  # type: ignore[attr-defined]
    if len(designs[0].gains) >= designs[0].variants or any(abs(gain) > 0.2 for gain in designs[0].gains):
        raise InputError("--gain: at most one for each variant beside the reference, between -0.2 and 0.2")
    if looks and (list(looks) != sorted(set(looks)) or any(design.seeds != looks[-1] for design in designs)):
        raise InputError("--looks: increasing, and the last one equal to --seeds")
    fewest, most = designs[0].clips_per_video or (1, 1)
    if not 1 <= fewest <= most:
        raise InputError("--videos: two numbers, the first not above the second, at least 1")


if __name__ == "__main__":
    typer.run(main)
