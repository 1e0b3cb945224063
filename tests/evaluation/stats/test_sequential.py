"""Sequential decisions: published boundaries, error spent exactly, and no more false decisions than promised."""

import numpy as np
import pytest
from scipy.stats import norm

from hpc_jepa.evaluation.stats.blocked import compare_with_reference
from hpc_jepa.evaluation.stats.sequential import SequentialRule, boundaries, equivalence_p

RULE = SequentialRule((2, 3, 5, 8), error=0.05, margin=2.0, futility=0.0, comparisons=9)


def obrien_fleming(information, error=0.025):
    return [2 * norm.sf(norm.isf(error / 2) / np.sqrt(fraction)) for fraction in information]


def pocock(information, error=0.025):
    return [error * np.log1p((np.e - 1) * fraction) for fraction in information]


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        (obrien_fleming, [4.8769, 3.3570, 2.6803, 2.2898, 2.0310]),
        (pocock, [2.4380, 2.4268, 2.4102, 2.3966, 2.3860]),
    ],
)
def test_boundaries_are_those_of_ldbounds(spending, published):
    """Five equal looks, one-sided 0.025: values of the R package ldbounds, four digits."""
    information = np.arange(1, 6) / 5
    assert boundaries(information, spending(information)) == pytest.approx(published, abs=2e-4)


def test_the_error_of_each_look_is_spent():
    information = np.array([2, 3, 5, 8]) / 8
    spent = np.array([0.02, 0.05, 0.08, 0.1])
    bounds = boundaries(information, spent)
    steps = np.random.default_rng(0).normal(0, np.sqrt(np.diff(information, prepend=0)), (200_000, 4))
    crossed = steps.cumsum(axis=1) / np.sqrt(information) > bounds
    shares = np.maximum.accumulate(crossed, axis=1).mean(axis=0)
    assert shares == pytest.approx(spent, abs=0.002)


def test_levels_rise_with_the_looks_and_with_decisions():
    levels = [RULE.difference_level(look) for look in range(4)]
    assert levels == sorted(levels) and levels[0] < 1e-8 and levels[-1] < 0.05 / 9
    assert RULE.difference_level(3, found=8) > 5 * RULE.difference_level(3)
    single = SequentialRule((8,), 0.05, 2.0, 0.0, 9)
    assert single.difference_level(0) == pytest.approx(0.05 / 9)  # one look is Holm


def simulate(rule, grids, gains, seed=0):
    """Decisions and seeds of all grids, on scores of real numbers: 9 variants, correlated by the reference."""
    rng, decisions = np.random.default_rng(seed), []
    for _ in range(grids):
        scores = rng.normal(0, 1.0, (10, 8, 1)) + np.concatenate([[0.0], gains])[:, None, None] + np.zeros(60)
        state = {str(v): "open" for v in range(1, 10)}
        seeds = dict.fromkeys(state, 0)
        for look, count in enumerate(rule.looks):
            still = [name for name, decision in state.items() if decision == "open"]
            if not still:
                break
            seeds |= dict.fromkeys(still, count)
            variants = {name: dict(enumerate(scores[int(name), : seeds[name]])) for name in state}
            found = compare_with_reference(variants, dict(enumerate(scores[0, :count])))
            state = rule.decide(look, {name: found[name] for name in still}, state)
        decisions.append((list(state.values()), list(seeds.values())))
    return decisions


def test_false_decisions_are_as_rare_as_promised_and_real_differences_found():
    grids = 60
    none = simulate(RULE, grids, np.zeros(9))
    false = np.mean([bool({"gain", "loss"} & set(state)) for state, _ in none])
    assert false <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / grids)
    at_margin = simulate(RULE, grids, np.full(9, RULE.margin), seed=1)
    assert np.mean(["equal" in state for state, _ in at_margin]) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / grids)
    real = simulate(RULE, 12, np.concatenate([[4.0, -4.0], np.zeros(7)]), seed=2)
    assert np.mean([state[:2] == ["gain", "loss"] for state, _ in real]) > 0.8


def test_hopeless_variants_stop_early_and_never_at_the_last_look():
    rule = SequentialRule((2, 3, 5, 8), 0.05, 0.5, 0.15, 9)
    found = simulate(rule, 20, np.zeros(9))
    seeds = np.array([seeds for _, seeds in found])
    states = np.array([state for state, _ in found])
    assert (states == "hopeless").mean() > 0.8
    assert seeds.mean() < 4.5
    assert not (states[seeds == 8] == "hopeless").any()


def test_equal_needs_an_interval_inside_the_margin():
    scores = np.random.default_rng(0).normal(0, 0.01, (2, 3, 50))
    (found,) = compare_with_reference({"a": dict(enumerate(scores[0]))}, dict(enumerate(scores[1]))).values()
    for margin in (0.01, 0.05, 0.2):
        inside = abs(found.value) + (found.high - found.value) < margin  # the 95 % interval: 2.5 % on each side
        assert (equivalence_p(found, margin) < 0.025) == inside
