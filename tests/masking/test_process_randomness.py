"""Processes with the same randomness draw the same masks and crops; independent processes do not (B17)."""

import numpy as np
import pytest
import torch

from hpc_jepa.config.masking import MaskingConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.data.clip_sampler import ClipSampler
from hpc_jepa.data.mixture import MixtureSource
from hpc_jepa.io.random_streams import RandomStream, uniforms
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.types import ClipBatch, TokenGrid


def masks_of(rank, process_randomness):
    semantics = Semantics.of("corrected", process_randomness=process_randomness)
    sampler = MaskSampler(MaskingConfig(), semantics, TokenGrid(4, 8, 8), seed=1, batch_size=8, rank=rank, world_size=2)
    nothing = torch.zeros(4, dtype=torch.int64)
    return sampler(5, ClipBatch(torch.zeros(4, 3, 8, 64, 64), nothing, nothing, nothing.bool()))


@pytest.mark.parametrize(("kind", "equal"), [("same", True), ("independent", False)])
def test_masks_are_equal_on_processes_that_share_a_seed(kind, equal):
    first, second = masks_of(0, kind), masks_of(1, kind)
    assert all(torch.equal(a.context, b.context) for a, b in zip(first, second, strict=True)) == equal


def test_clips_repeat_their_crops_but_not_their_samples():
    draws = ClipSampler(3, [MixtureSource(1.0, (1000,))], 8, repeats=2).samples(4)
    np.testing.assert_array_equal(draws.crops[:4], draws.crops[4:])
    np.testing.assert_array_equal(draws.flips[:4], draws.flips[4:])
    assert (draws.samples[:4] != draws.samples[4:]).any()


def test_more_rows_do_not_change_the_first_ones():
    short, long = (uniforms(9, RandomStream.CROP, 3, (rows, 5)) for rows in (4, 12))
    np.testing.assert_array_equal(long[:4], short)
