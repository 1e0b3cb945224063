"""Sequential studies on simulated grids: decisions after each look, the runs that they took, and what was wrong."""

from collections.abc import Mapping

import numpy as np
from simulated_grids import Grid

from hpc_jepa.evaluation.stats.blocked import SeedScores, compare_with_reference
from hpc_jepa.evaluation.stats.sequential import CONFIRMED, Decision, SequentialRule


def take_looks(rule: SequentialRule, grid: Grid) -> tuple[dict[str, Decision], int]:
    """Decisions after the last look, and the runs that they took. A variant that is decided gets no further seeds."""
    decisions: dict[str, Decision] = dict.fromkeys(grid.variants, "open")
    used: dict[str, SeedScores] = {name: {} for name in grid.variants}
    reference: SeedScores = {}
    for look, seeds in enumerate(rule.looks):
        still = [name for name, decision in decisions.items() if decision == "open"]
        if not still:
            break
        reference = seeds_from(grid.reference, 0, seeds)
        used |= {name: seeds_from(grid.variants[name], 0, seeds) for name in still}
        found = compare_with_reference(used, reference, grid.clusters)
        decisions = rule.decide(look, {name: found[name] for name in still}, decisions)
    return decisions, len(reference) + sum(map(len, used.values()))


def select_and_confirm(rule: SequentialRule, grid: Grid, prefix: float) -> tuple[dict[str, Decision], float]:
    """Decisions on the seeds after those of the looks, of the variants that the looks select; the others stay open.

    Also what it took, in runs of all steps: those of the looks are the share ``prefix`` of one.
    """
    selection, early = take_looks(rule, grid)
    decisions: dict[str, Decision] = dict.fromkeys(selection, "open")
    selected = [name for name, decision in selection.items() if decision in CONFIRMED]
    if not selected:
        return decisions, prefix * early
    found = compare_with_reference(
        {name: seeds_from(grid.variants[name], rule.looks[-1], rule.confirmation) for name in selected},
        seeds_from(grid.reference, rule.looks[-1], rule.confirmation),
        grid.clusters,
    )
    return decisions | rule.confirm(found), prefix * early + (len(selected) + 1) * rule.confirmation


def seeds_from(scores: SeedScores, begin: int, count: int) -> SeedScores:
    """Scores of ``count`` seeds from ``begin``."""
    return {seed: values for seed, values in scores.items() if begin <= seed < begin + count}


def errors_and_power(truth: Mapping[str, float], decisions: Mapping[str, str | None]) -> tuple[bool, list[float]]:
    """Whether any gain or loss is decided that is none; the share of the real ones that are found, empty without any.

    ``truth``: true difference of each variant to the reference.
    """
    right = {name: "gain" if gain > 0 else "loss" for name, gain in truth.items() if gain}
    wrong = any(decisions[name] in ("gain", "loss") and decisions[name] != right.get(name) for name in truth)
    return wrong, [float(np.mean([decisions[name] == way for name, way in right.items()]))] if right else []
