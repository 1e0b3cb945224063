"""The sampler is a pure function of seed and step."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from hpc_jepa.config.data import ShardOrderConfig
from hpc_jepa.data.clip_sampler import ClipSampler
from hpc_jepa.data.mixture import MixtureSource


def mixture(sizes, weights):
    """Sources of one tar each."""
    return [MixtureSource(weight, (size,)) for size, weight in zip(sizes, weights, strict=True)]


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.integers(0, 2**40), st.integers(1, 64))
def test_the_same_seed_and_step_give_the_same_draws(seed, step, batch):
    first, second = (ClipSampler(seed, mixture((5, 70), (1.0, 3.0)), batch).samples(step) for _ in range(2))
    for name in ("sources", "samples", "starts", "crops", "flips"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_steps_and_seeds_differ():
    sampler = ClipSampler(0, mixture((1000,), (1.0,)), 32)
    other = ClipSampler(1, mixture((1000,), (1.0,)), 32)
    assert (sampler.samples(0).samples != sampler.samples(1).samples).any()
    assert (sampler.samples(0).samples != other.samples(0).samples).any()


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0.01, 100)), min_size=1, max_size=5), st.integers(0, 1000))
def test_every_sample_exists(sources, step):
    sizes, weights = zip(*sources, strict=True)
    draws = ClipSampler(7, mixture(sizes, weights), 40).samples(step)
    assert ((draws.samples >= 0) & (draws.samples < np.array(sizes)[draws.sources])).all()


def test_sources_are_drawn_by_weight_and_samples_uniformly():
    sampler = ClipSampler(239, mixture((10, 1000), (1.0, 3.0)), 64)
    draws = [sampler.samples(step) for step in range(300)]
    sources, samples = (np.concatenate([getattr(draw, name) for draw in draws]) for name in ("sources", "samples"))
    counts = np.bincount(sources)
    assert chisquare(counts, counts.sum() * np.array([0.25, 0.75])).pvalue > 1e-3
    assert chisquare(np.bincount(samples[sources == 0], minlength=10)).pvalue > 1e-3


@pytest.mark.parametrize("attempt", [0, 1, 7])
def test_replacements_are_from_the_same_source_and_differ_by_attempt(attempt):
    sampler = ClipSampler(3, mixture((50, 2000), (1.0, 1.0)), 64)
    sources = sampler.samples(9).sources
    replacements = sampler.replacements(9, attempt)
    assert (replacements < np.array([50, 2000])[sources]).all()
    assert (replacements != sampler.replacements(9, attempt + 1)).any()


TARS = (5, 12, 1, 20, 7, 9)
LOCAL = ShardOrderConfig(shards=3, steps=6)


def tars_of(samples):
    return np.searchsorted(np.cumsum(TARS), samples, side="right")


def test_shard_order_uses_few_tars_and_changes_one_at_a_time():
    sampler = ClipSampler(4, [MixtureSource(1.0, TARS)], 256, order=LOCAL)
    open_tars = [set(tars_of(sampler.samples(step).samples).tolist()) for step in range(300)]
    assert all(len(tars) <= 3 for tars in open_tars)
    assert all(len(after - before) <= 1 for before, after in pairwise(open_tars))
    changes = [step for step, (before, after) in enumerate(pairwise(open_tars), start=1) if before != after]
    assert all(step % 2 == 0 for step in changes)  # 6 steps for 3 slots
    assert set().union(*open_tars) == set(range(6))


def test_shard_order_draws_every_sample_equally_often():
    sampler = ClipSampler(4, [MixtureSource(1.0, TARS)], 12, order=ShardOrderConfig(shards=2, steps=1))
    samples = np.concatenate([sampler.samples(step).samples for step in range(3000)])
    counts = np.bincount(samples, minlength=sum(TARS))
    # Samples of one step share tars, so counts vary more than those of independent draws: compare, do not test.
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()


def test_shard_order_changes_samples_only():
    sources = [MixtureSource(1.0, TARS), MixtureSource(2.0, (30, 40))]
    near, far = ClipSampler(4, sources, 32, order=LOCAL).samples(9), ClipSampler(4, sources, 32).samples(9)
    for name in ("sources", "starts", "crops", "flips"):
        np.testing.assert_array_equal(getattr(near, name), getattr(far, name))
    assert (near.samples != far.samples).any()
    again = ClipSampler(4, sources, 32, order=LOCAL)
    np.testing.assert_array_equal(again.samples(9).samples, near.samples)
    assert set(tars_of(again.replacements(9, 0)[near.sources == 0])) <= set(again._active_tars(9, 0, LOCAL).tolist())


def test_image_batches_have_their_share():
    sources = [MixtureSource(0.2, (50,)), MixtureSource(0.6, (500,)), MixtureSource(0.2, (80,), images=True)]
    sampler = ClipSampler(1, sources, 16, image_batches=True)
    drawn = [sampler.samples(step).sources for step in range(2000)]
    of_images = np.array([(sources == 2).all() for sources in drawn])
    assert all((sources == 2).all() or (sources != 2).all() for sources in drawn)
    assert abs(of_images.mean() - 0.2) < 0.03
    counts = np.bincount(np.concatenate([sources for sources in drawn if sources[0] != 2]))
    assert abs(counts[0] / counts.sum() - 0.25) < 0.02
