"""Prefetcher: the window of items that are computed in the background."""

import threading

import pytest

from hpc_jepa.data.prefetch import Prefetcher


@pytest.fixture
def made():
    return []


@pytest.fixture
def prefetcher(made):
    def make(item):
        made.append(item)
        if item == 13:
            raise ValueError(item)
        return item * item

    one = Prefetcher(make, ahead=2, end=16)
    yield one
    one.close()


def settle(prefetcher):
    """Wait for the single thread to finish what is queued."""
    done = threading.Event()
    prefetcher._threads.submit(done.set)
    assert done.wait(30)


def test_items_are_computed_once_and_ahead_of_time(prefetcher, made):
    assert [prefetcher.get(item) for item in range(3)] == [0, 1, 4]
    settle(prefetcher)
    assert made == [0, 1, 2, 3, 4]


def test_nothing_past_the_end_is_computed(prefetcher, made):
    assert prefetcher.get(15) == 225
    prefetcher.prepare(16)
    settle(prefetcher)
    assert made == [15]


def test_skipped_items_are_discarded(prefetcher, made):
    prefetcher.get(0)
    assert prefetcher.get(2) == 4
    settle(prefetcher)
    assert made == [0, 1, 2, 3, 4]
    assert prefetcher.get(1) == 1  # computed again
    settle(prefetcher)
    assert made.count(1) == 2


def test_a_prepared_item_is_kept(prefetcher, made):
    prefetcher.prepare(7)
    assert made == [7]
    assert prefetcher.get(7) == 49
    settle(prefetcher)
    assert made == [7, 8, 9]


def test_an_error_is_raised_by_its_own_item_only(prefetcher):
    assert prefetcher.get(12) == 144
    with pytest.raises(ValueError, match="13"):
        prefetcher.get(13)
    assert prefetcher.get(14) == 196
    with pytest.raises(ValueError, match="13"):
        prefetcher.prepare(13)


def test_several_items_at_once(prefetcher):
    assert [future.result() for future in prefetcher.futures(4, 3)] == [16, 25, 36]
