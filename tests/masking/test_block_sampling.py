import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpc_jepa.config.masking import MaskGroupConfig, MaskingConfig
from hpc_jepa.masking.block_sampling import block_size, uniform_origins
from hpc_jepa.types import TokenGrid

GRID = TokenGrid(8, 14, 14)
SHORT_RANGE, LONG_RANGE = MaskingConfig().groups


@pytest.mark.parametrize(("name", "group"), [("group1", SHORT_RANGE), ("group2", LONG_RANGE)])
def test_sizes_equal_the_recording(recorded_sizes, name, group):
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
    assert all(count >= 1 for count in grid.origin_counts(size))


def test_every_origin_is_drawn_equally_often():
    size = (4, 10, 12)
    draws = (torch.arange(1500, dtype=torch.float64) + 0.5) / 1500
    assert uniform_origins(draws, size, GRID).bincount().tolist() == [20] * (5 * 5 * 3)
