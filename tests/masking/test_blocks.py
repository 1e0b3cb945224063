import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpc_jepa.config.masking import MaskGroupConfig, MaskingConfig
from hpc_jepa.errors import InputError
from hpc_jepa.latents import TokenGrid
from hpc_jepa.masking.blocks import block_size, origin_counts, uniform_origins, visible_tokens

GRID = TokenGrid(8, 14, 14)
SHORT_RANGE, LONG_RANGE = MaskingConfig().groups


@pytest.mark.parametrize(("name", "group"), [("group1", SHORT_RANGE), ("group2", LONG_RANGE)])
def test_sizes_are_the_recorded_ones(recorded_sizes, name, group):
    assert [list(block_size(group, GRID, step)) for step in range(20)] == recorded_sizes[name].tolist()


@given(
    st.integers(0, 10**6),
    st.builds(TokenGrid, st.integers(1, 9), st.integers(1, 17), st.integers(1, 17)),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
)
def test_a_block_fits_into_every_grid(step, grid, spatial, temporal):
    group = MaskGroupConfig(blocks=1, spatial_scale=spatial, temporal_scale=temporal)
    size = block_size(group, grid, step)
    assert all(1 <= length <= side for length, side in zip(size, (grid.time, grid.height, grid.width), strict=True))
    assert all(count >= 1 for count in origin_counts(size, grid))


def test_every_origin_is_drawn_equally_often():
    size = (4, 10, 12)
    draws = (torch.arange(1500, dtype=torch.float64) + 0.5) / 1500
    assert uniform_origins(draws, size, GRID).bincount().tolist() == [20] * (5 * 5 * 3)


def test_visible_tokens_lie_outside_all_blocks():
    size, grid = (2, 3, 2), TokenGrid(3, 5, 4)
    counts = origin_counts(size, grid)
    origins = torch.randint(0, 2 * 3 * 3, (40, 1, 2), generator=torch.Generator().manual_seed(0))
    visible = visible_tokens(origins, size, grid, MaskGroupConfig(blocks=2, spatial_scale=0.3))
    starts = list(itertools.product(*(range(count) for count in counts)))
    for clip in range(40):
        expected = torch.ones(3, 5, 4, dtype=torch.bool)
        for t, y, x in (starts[block] for block in origins[clip, 0].tolist()):
            expected[t : t + 2, y : y + 3, x : x + 2] = False
        assert torch.equal(visible[clip].view(3, 5, 4), expected)


def test_the_first_placement_that_leaves_something_visible_counts():
    size, grid = (1, 1, 2), TokenGrid(1, 1, 3)  # origins 0 and 1 together hide all three tokens
    group = MaskGroupConfig(blocks=2, spatial_scale=0.6)
    origins = torch.tensor([[[0, 1], [1, 1], [0, 0]], [[0, 0], [1, 1], [0, 1]], [[0, 1], [1, 0], [1, 0]]])
    visible = visible_tokens(origins, size, grid, group)
    assert visible.tolist() == [[True, False, False], [False, False, True], [True, False, False]]


def test_the_context_ends_where_the_future_begins():
    group = MaskGroupConfig(blocks=1, spatial_scale=0.3, temporal_keep=0.5)
    visible = visible_tokens(torch.zeros(1, 1, 1, dtype=torch.int64), (8, 7, 8), GRID, group).view(8, -1)
    assert visible[:4].sum() == 4 * (196 - 56) and not visible[4:].any()


def test_a_block_that_hides_everything_is_an_error_in_one_line():
    group = MaskGroupConfig(blocks=1, spatial_scale=1.0)
    with pytest.raises(InputError, match=r"^masking\.groups: .*lower spatial_scale \(1\.0\)") as error:
        visible_tokens(torch.zeros(2, 8, 1, dtype=torch.int64), (8, 14, 14), GRID, group)
    assert "\n" not in str(error.value)
