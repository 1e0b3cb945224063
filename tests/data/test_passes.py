"""Passes without replacement: every sample once per pass, whatever the batch, the mixture and the place of a resume."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare, kstest

from hpc_jepa.config.data import DataConfig
from hpc_jepa.data.clip_sampler import ClipSampler
from hpc_jepa.data.mixture import MixtureSource
from hpc_jepa.data.passes import ROUNDS, Passes, Shares, permute

SEEDS = st.integers(0, 2**63 - 1)


def keys_of(seed):
    return np.random.default_rng(seed).integers(0, 2**53, ROUNDS, dtype=np.uint64)


def drawn(passes, steps):
    """Sources and samples of the first steps, one after the other."""
    rows = [passes.samples(step) for step in range(steps)]
    return (np.concatenate(part) for part in zip(*rows, strict=True))


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 700), SEEDS)
def test_a_permutation_has_every_number_once(size, seed):
    images = permute(np.arange(size), size, keys_of(seed))
    assert sorted(images.tolist()) == list(range(size))


@settings(deadline=None)
@given(st.integers(1, 2**62), st.data())
def test_a_permutation_of_any_size_stays_inside_and_differs_for_different_numbers(size, data):
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True))
    images = permute(np.array(indices, dtype=np.int64), size, keys_of(5))
    assert ((images >= 0) & (images < size)).all()
    assert len(set(images.tolist())) == len(indices)


def test_all_orders_of_four_samples_are_equally_frequent():
    orders = [tuple(permute(np.arange(4), 4, keys_of(seed)).tolist()) for seed in range(2400)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 1e-3


def test_neighbours_are_far_apart():
    """Distances of consecutive images are those of independent uniform numbers."""
    images = permute(np.arange(20_000), 20_000, keys_of(3)) / 20_000
    circular = np.diff(images) % 1
    assert kstest(circular, "uniform").pvalue > 1e-3
    assert kstest(images[:2000], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.03


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(1, 90), st.integers(2, 64))
def test_three_passes_have_every_sample_three_times_each_once_per_pass(seed, size, batch):
    steps = -(-3 * size // batch)
    _, samples = drawn(Passes(seed, [MixtureSource(1.0, (size,))], batch), steps)
    for turn in range(3):
        assert sorted(samples[turn * size : (turn + 1) * size].tolist()) == list(range(size))


def test_the_order_depends_on_seed_and_pass():
    def order(seed, turn):
        return tuple(Passes(seed, [MixtureSource(1.0, (50,))], 50).samples(turn)[1].tolist())

    assert len({order(0, 0), order(0, 1), order(0, 2), order(1, 0), order(1, 1)}) == 5
    assert order(1, 1) == order(1, 1)


def test_the_same_order_in_every_release():
    passes = Passes(239, [MixtureSource(2.0, (7,)), MixtureSource(1.0, (1000, 1000))], 9)
    sources, samples = passes.samples(5)
    assert (sources.tolist(), samples.tolist()) == ([1, 0, 0, 1, 0, 0, 1, 0, 0], [534, 0, 1, 765, 5, 4, 1544, 2, 0])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0.01, 100)), min_size=1, max_size=4), st.integers(1, 40), SEEDS)
def test_each_source_of_a_mixture_is_read_in_passes_by_its_weight(described, batch, seed):
    sources = [MixtureSource(weight, (size,)) for size, weight in described]
    passes, steps = Passes(seed, sources, batch), 12
    numbers, samples = drawn(passes, steps)
    total = sum(source.weight for source in sources)
    for number, source in enumerate(sources):
        own = samples[numbers == number]
        assert len(own) == passes.counts(steps)[number]
        assert abs(len(own) - steps * batch * source.weight / total) <= len(sources)
        for start in range(0, len(own) - source.size + 1, source.size):
            assert sorted(own[start : start + source.size].tolist()) == list(range(source.size))
        rest = own[len(own) // source.size * source.size :]
        assert len(set(rest.tolist())) == len(rest)


def test_sources_weighted_by_their_sizes_end_their_passes_together():
    sources = [MixtureSource(weight, (size,)) for size, weight in ((30, 0.3), (10, 0.1), (60, 0.6))]
    for end in (100, 200, 700):
        assert Shares([0.3, 0.1, 0.6]).counts(end) == [30 * end // 100, 10 * end // 100, 60 * end // 100]
    numbers, samples = drawn(Passes(4, sources, 20), 5)
    assert len(set(zip(numbers.tolist(), samples.tolist(), strict=True))) == 100


@settings(deadline=None)
@given(st.lists(st.fractions(0, 9, max_denominator=40), min_size=1, max_size=5), st.integers(0, 2**50))
def test_shares_count_what_they_place(weights, start):
    exact = [float(weight) for weight in weights]
    if not any(exact):
        return
    shares = Shares(exact)
    before, placed = shares.counts(start), [shares.place(position) for position in range(start, start + 30)]
    for number, index in placed:
        assert index == before[number]
        before[number] += 1
    assert before == shares.counts(start + 30)
    total = sum(map(Fraction, exact))
    assert all(
        abs(count - (start + 30) * Fraction(w) / total) < len(exact) for count, w in zip(before, exact, strict=True)
    )


def test_batches_of_images_and_of_videos_take_turns():
    sources = [MixtureSource(0.5, (9,)), MixtureSource(0.25, (4,), images=True), MixtureSource(0.25, (6,))]
    passes = Passes(8, sources, 6, image_batches=True)
    kinds = [set(passes.samples(step)[0].tolist()) for step in range(40)]
    assert kinds.count({1}) == 10
    assert all(kind == {1} or 1 not in kind for kind in kinds)
    numbers, samples = drawn(passes, 40)
    assert passes.counts(40) == np.bincount(numbers).tolist() == [120, 60, 60]
    for number, size in ((0, 9), (1, 4), (2, 6)):
        own = samples[numbers == number]
        whole = own[: len(own) // size * size].reshape(-1, size)
        assert (np.sort(whole, 1) == np.arange(size)).all()


def test_passes_change_sources_and_samples_only():
    sources = [MixtureSource(1.0, (40,)), MixtureSource(1.0, (30,))]
    replaced, passes = ClipSampler(9, sources, 16), ClipSampler(9, sources, 16, sampling="passes")
    for name in ("starts", "crops", "flips"):
        np.testing.assert_array_equal(getattr(replaced.samples(3), name), getattr(passes.samples(3), name))
    assert (replaced.samples(3).samples != passes.samples(3).samples).any()
    replacements = passes.replacements(3, 0)
    assert (replacements < np.array([40, 30])[passes.samples(3).sources]).all()


def test_how_often_a_source_was_read():
    sources = [MixtureSource(1.0, (40,)), MixtureSource(3.0, (30,))]
    for sampling in ("replacement", "passes"):
        assert ClipSampler(9, sources, 16, sampling=sampling).passes(10) == [1.0, 4.0]


def test_an_order_with_replacement_is_refused():
    with pytest.raises(ValidationError, match=r"shard_order.*sampling"):
        DataConfig(sources={"a": {"shards": "a"}}, sampling="passes", shard_order={"shards": 2})
