"""The sampler is a pure function of seed and step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from hpc_jepa.config.data import ShardOrderConfig
from hpc_jepa.data.sampler import SampledSource, Sampler


def mixture(sizes, weights):
    """Sources of one tar each."""
    return [SampledSource(weight, (size,)) for size, weight in zip(sizes, weights, strict=True)]


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.integers(0, 2**40), st.integers(1, 64))
def test_the_same_seed_and_step_give_the_same_draws(seed, step, batch):
    first, second = (Sampler(seed, mixture((5, 70), (1.0, 3.0)), batch).samples(step) for _ in range(2))
    for name in ("sources", "samples", "starts", "crops", "flips"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_steps_and_seeds_differ():
    sampler = Sampler(0, mixture((1000,), (1.0,)), 32)
    other = Sampler(1, mixture((1000,), (1.0,)), 32)
    assert (sampler.samples(0).samples != sampler.samples(1).samples).any()
    assert (sampler.samples(0).samples != other.samples(0).samples).any()


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0.01, 100)), min_size=1, max_size=5), st.integers(0, 1000))
def test_every_sample_exists(sources, step):
    sizes, weights = zip(*sources, strict=True)
    draws = Sampler(7, mixture(sizes, weights), 40).samples(step)
    assert ((draws.samples >= 0) & (draws.samples < np.array(sizes)[draws.sources])).all()


def test_sources_come_by_weight_and_samples_uniformly_with_replacement():
    sampler = Sampler(239, mixture((10, 1000), (1.0, 3.0)), 64)
    draws = [sampler.samples(step) for step in range(300)]
    sources, samples = (np.concatenate([getattr(draw, name) for draw in draws]) for name in ("sources", "samples"))
    counts = np.bincount(sources)
    assert chisquare(counts, counts.sum() * np.array([0.25, 0.75])).pvalue > 1e-3
    assert chisquare(np.bincount(samples[sources == 0], minlength=10)).pvalue > 1e-3


@pytest.mark.parametrize("attempt", [0, 1, 7])
def test_a_replacement_comes_from_the_same_source_and_differs_per_attempt(attempt):
    sampler = Sampler(3, mixture((50, 2000), (1.0, 1.0)), 64)
    sources = sampler.samples(9).sources
    replacements = sampler.replacements(9, attempt)
    assert (replacements < np.array([50, 2000])[sources]).all()
    assert (replacements != sampler.replacements(9, attempt + 1)).any()
