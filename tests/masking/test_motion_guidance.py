import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from hpc_jepa.errors import InputError
from hpc_jepa.masking.block_sampling import uniform_origins
from hpc_jepa.masking.motion_guidance import guided_origins, motion_map
from hpc_jepa.types import TokenGrid

GRID = TokenGrid(4, 4, 4)


def origin_probabilities(motion: torch.Tensor, size: tuple[int, int, int], strength: float) -> np.ndarray:
    """Probability of each origin of one clip, block by block."""
    scores = [
        motion[t : t + size[0], y : y + size[1], x : x + size[2]].double().mean().item()
        for t, y, x in np.ndindex(*TokenGrid(*motion.shape).origin_counts(size))
    ]
    weights = np.maximum(scores, 1e-6) ** strength
    return weights / weights.sum()


def test_the_published_map_equals_the_recording(recorded_case):
    motion = motion_map(recorded_case["pixels"], GRID, "trilinear", "tubelet")
    torch.testing.assert_close(motion, recorded_case["motion_map.published"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pool", ["trilinear", "area"])
def test_each_clip_is_divided_by_its_own_maximum(recorded_case, pool):
    motion = motion_map(recorded_case["pixels"][:3], GRID, pool, "clip")
    torch.testing.assert_close(motion.amax((1, 2, 3)), torch.ones(3))


def test_area_pooling_averages_all_differences_of_a_tubelet_patch(recorded_case):
    pixels = recorded_case["pixels"]
    motion = motion_map(pixels, GRID, "area", "clip")
    change = (pixels[:, :, 1:] - pixels[:, :, :-1]).abs().mean(1)
    expected = change[:, 3:5, 8:12, 4:8].mean((1, 2, 3))  # frames 4 and 5, i.e. tubelet 2, at row 2 and column 1
    first = (change[:, 0] + change[:, 0])[:, 8:12, 4:8].mean((1, 2)) / 2
    torch.testing.assert_close(motion[:, 2, 2, 1] / motion[:, 0, 2, 1], expected / first)


@pytest.mark.parametrize("frames", [1, 8])
def test_blocks_of_a_static_clip_are_placed_uniformly(frames):
    motion = motion_map(torch.ones(2, 3, frames, 16, 16), GRID, "area", "clip")
    assert not motion.any()
    draws = torch.rand(2, 5000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    size = (4, 2, 2)
    agree = guided_origins(draws, motion, size, 5.0) == uniform_origins(draws, size, GRID)
    assert agree.float().mean() > 0.999


def test_tubelet_norm_needs_as_many_clips_as_tubelets(recorded_case):
    with pytest.raises(InputError, match=r"^semantics\.motion_norm: .*\(3\).*\(4\)"):
        motion_map(recorded_case["pixels"][:3], GRID, "trilinear", "tubelet")


def test_strength_zero_is_uniform_placement():
    draws = torch.rand(3, 8, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    motion = torch.rand(3, 4, 4, 4)
    assert torch.equal(guided_origins(draws, motion, (4, 2, 3), 0.0), uniform_origins(draws, (4, 2, 3), GRID))


@pytest.mark.parametrize("strength", [2.0, 5.0])
@pytest.mark.parametrize("size", [(4, 2, 2), (2, 3, 2)])
def test_origins_follow_the_motion_inside_the_block(strength, size):
    generator = torch.Generator().manual_seed(3)
    motion = torch.rand(2, 4, 4, 4, generator=generator)
    draws = torch.rand(2, 20_000, dtype=torch.float64, generator=generator)
    chosen = guided_origins(draws, motion, size, strength)
    for clip in range(2):
        expected = 20_000 * origin_probabilities(motion[clip], size, strength)
        counts = np.bincount(chosen[clip], minlength=len(expected))
        assert chisquare(counts, expected).pvalue > 0.001


def test_motion_is_at_least_the_minimum():
    motion = torch.zeros(1, 1, 1, 4)
    motion[..., 1] = 1e-4  # a hundred times the floor
    draws = (torch.arange(1030, dtype=torch.float64)[None] + 0.5) / 1030
    assert guided_origins(draws, motion, (1, 1, 1), 1.0).flatten().bincount().tolist() == [10, 1000, 10, 10]


def test_changes_below_the_minimum_are_not_normalised_to_one():
    pixels = torch.zeros(1, 3, 8, 16, 16)
    pixels[:, :, ::2] = 1e-7
    torch.testing.assert_close(motion_map(pixels, GRID, "area", "clip"), torch.full((1, 4, 4, 4), 0.1))


@pytest.mark.parametrize(
    ("frames", "sides", "grid"),
    [(16, (48, 32), (8, 3, 2)), (9, (20, 30), (3, 5, 5)), (6, (9, 12), (3, 3, 6)), (8, (8, 12), (4, 4, 6))],
)
def test_interpolation_equals_a_resize_of_the_whole_clip(frames, sides, grid):
    pixels = torch.randn(6, 3, frames, *sides, generator=torch.Generator().manual_seed(frames))
    change = (pixels[:, :, 1:] - pixels[:, :, :-1]).double().abs().mean(1)
    change = torch.cat([change[:, :1], change], dim=1).unsqueeze(1)
    whole = torch.nn.functional.interpolate(change, size=grid, mode="trilinear", align_corners=False).squeeze(1)
    found = motion_map(pixels, TokenGrid(*grid), "trilinear", "clip")
    torch.testing.assert_close(found.double(), whole / whole.amax((1, 2, 3), keepdim=True), rtol=1e-5, atol=1e-6)
