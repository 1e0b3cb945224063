"""Prefetched batches: any number ahead gives the same batches, masks are made one step ahead only."""

import threading

import pytest
import torch

from hpc_jepa.training.batches import BatchPrefetcher, DataCounts
from hpc_jepa.types import ClipBatch
from tests.waiting import wait_until

CPU = torch.device("cpu")


class Loader:
    """Clips that state their step; counts the batches it made."""

    def __init__(self):
        self.made, self.closed = [], False
        self.decode_errors, self.cpu_decoded, self.shared_clips = {"a": 0}, {"a": 3}, 5
        self.waiting = threading.Condition()

    def batch(self, step):
        with self.waiting:
            self.made.append(step)
            self.waiting.notify_all()
        whole = torch.full((2,), step)
        return ClipBatch(
            pixels=torch.full((2, 3, 4, 8, 8), float(step)), samples=whole, sources=whole, static=whole > 9
        )

    def passes(self, steps):
        return {"a": steps / 4}

    def wait_for(self, count):
        wait_until(lambda: len(self.made) >= count, progress=lambda: len(self.made))

    def close(self):
        self.closed = True


@pytest.fixture
def masked():
    return []


def prefetcher(loader, masked, ahead, steps=9):
    def masker(step, clips):
        assert clips.samples.tolist() == [step, step]
        masked.append(step)
        return ((),)

    return BatchPrefetcher(loader, masker, steps, CPU, ahead)


@pytest.mark.parametrize("ahead", [1, 2, 5, 50])
def test_batches_are_those_of_their_steps_and_each_is_made_once(ahead, masked):
    loader = Loader()
    with prefetcher(loader, masked, ahead) as batches:
        batches.prepare(2)
        assert [batches.get(step).clips.samples[0].item() for step in range(2, 9)] == list(range(2, 9))
        assert batches.counts(2) == DataCounts({"a": 0.5}, 5, {"a": 0}, {"a": 3})
    assert loader.made == masked == list(range(2, 9))
    assert loader.closed


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_so_many_clips_but_only_one_mask_are_made_ahead(ahead, masked):
    loader = Loader()
    with prefetcher(loader, masked, ahead) as batches:
        batches.get(3)
        loader.wait_for(1 + ahead)
    assert loader.made == list(range(3, 4 + ahead))
    assert masked in ([3], [3, 4])  # the second may have been cancelled before it began


def test_an_error_in_a_later_batch_is_raised_by_its_own_step(masked):
    loader = Loader()
    make = loader.batch
    loader.batch = lambda step: make(step) if step != 5 else 1 // 0
    with prefetcher(loader, masked, 3) as batches:
        for step in (3, 4):
            assert batches.get(step).clips.samples[0] == step
        with pytest.raises(ZeroDivisionError):
            batches.get(5)
