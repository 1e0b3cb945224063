"""Masks on a GPU are those of the CPU."""

from dataclasses import fields

import pytest
import torch

from hpc_jepa.masking.motion_guidance import motion_map
from hpc_jepa.types import ClipBatch, TokenGrid, TokenMasks

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
GRIDS = [TokenGrid(4, 8, 8), TokenGrid(8, 14, 14), TokenGrid(1, 6, 10)]


def on(device, clips):
    values = {field.name: getattr(clips, field.name) for field in fields(ClipBatch)}
    return ClipBatch(**{name: value.to(device) for name, value in values.items() if value is not None})


def check_equal(found, expected):
    assert found.padding is None and expected.padding is None
    for field in (field for field in fields(TokenMasks) if field.name != "padding"):
        ours, theirs = getattr(found, field.name).cpu(), getattr(expected, field.name)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=lambda text, name=field.name: f"{name}: {text}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("truncation", ["raster", "tubes", "tokens"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_masks_are_those_of_the_cpu(make_sampler, make_clips, grid, truncation, device):
    clips = make_clips(6, grid, static=[1])
    sampler = make_sampler(grid, 6, mask_truncation=truncation)
    for step in (0, 7, 1000):
        for found, expected in zip(sampler(step, on(device, clips)), sampler(step, clips), strict=True):
            assert found.context.device.type == device
            check_equal(found, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pool", ["area", "trilinear"])
def test_motion_maps_are_those_of_the_cpu_and_guided_masks_are_masks(
    make_sampler, make_clips, motion_guidance, pool, device
):
    grid = TokenGrid(4, 8, 8)
    clips = make_clips(6, grid)
    sampler = make_sampler(grid, 6, motion=motion_guidance, motion_pool=pool)
    norm = sampler.semantics.motion_norm
    found, expected = (motion_map(part.pixels, grid, pool, norm) for part in (on(device, clips), clips))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-6)
    for masks in sampler(3, on(device, clips)):  # a rounding error may choose another block
        both = torch.cat([masks.context, masks.target], 1)
        assert both.device.type == device
        assert all(len(set(row)) == len(row) for row in both.tolist())
        assert both.min() >= 0 and both.max() < grid.tokens
