import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_jepa.kernels.visible_tokens import visible_tokens
from hpc_jepa.types import TokenGrid


@pytest.fixture(scope="module", params=["plain", "triton"])
def form(request, device):
    """``visible_tokens`` in both implementations, on CPU tensors."""

    def triton(origins, size, grid, tubelets):
        from hpc_jepa.kernels.triton.visible_tokens import visible_tokens_triton

        one_alone = origins[:, -1:, :1].expand(-1, -1, origins.shape[-1])
        placements = torch.cat([origins, one_alone], 1).to(device)
        return tuple(tensor.cpu() for tensor in visible_tokens_triton(placements, size, grid, tubelets))

    return {"plain": visible_tokens, "triton": triton}[request.param]


def outside(blocks, size, grid, tubelets):
    """Tokens of one clip outside its blocks, block by block."""
    visible = torch.zeros(grid.time, grid.height, grid.width, dtype=torch.bool)
    visible[:tubelets] = True
    starts = list(itertools.product(*(range(count) for count in grid.origin_counts(size))))
    for t, y, x in (starts[block] for block in blocks):
        visible[t : t + size[0], y : y + size[1], x : x + size[2]] = False
    return visible.flatten()


@st.composite
def cases(draw):
    """A grid, a block size that fits into it, the number of usable tubelets, and a seed."""
    sides = [draw(st.integers(1, most)) for most in (4, 7, 7)]
    size = tuple(draw(st.integers(1, side)) for side in sides)
    return TokenGrid(*sides), size, draw(st.integers(1, sides[0])), draw(st.integers(0, 2**32 - 1))


@settings(deadline=None, max_examples=40)
@given(cases())
def test_the_first_placement_with_a_visible_token_is_used(form, case):
    grid, size, tubelets, seed = case
    places = torch.tensor(grid.origin_counts(size)).prod()
    origins = torch.randint(0, int(places), (5, 3, 4), generator=torch.Generator().manual_seed(seed))
    visible, counts = form(origins, size, grid, tubelets)
    assert visible.dtype == torch.bool and counts.dtype == torch.int64
    for clip, attempts in enumerate(origins.tolist()):
        placements = [*attempts, attempts[-1][:1]]
        masks = [outside(blocks, size, grid, tubelets) for blocks in placements]
        expected = next((mask for mask in masks if mask.any()), masks[-1])
        assert torch.equal(visible[clip], expected)
        assert counts[clip] == expected.sum()


def test_the_last_resort_is_a_single_block_of_the_last_placement(form):
    size, grid = (1, 1, 2), TokenGrid(1, 1, 3)  # origins 0 and 1 together hide all three tokens
    origins = torch.tensor([[[0, 1], [1, 1], [0, 0]], [[0, 0], [1, 1], [0, 1]], [[0, 1], [1, 0], [1, 0]]])
    visible, counts = form(origins, size, grid, 1)
    assert visible.tolist() == [[True, False, False], [False, False, True], [True, False, False]]
    assert counts.tolist() == [1, 1, 1]


def test_tubelets_after_the_limit_are_hidden(form):
    visible, counts = form(torch.zeros(1, 1, 1, dtype=torch.int64), (8, 7, 8), TokenGrid(8, 14, 14), 4)
    assert visible[0, : 4 * 196].sum() == counts[0] == 4 * (196 - 56)
    assert not visible[0, 4 * 196 :].any()


def test_a_block_of_the_whole_grid_leaves_nothing_visible(form):
    visible, counts = form(torch.zeros(2, 3, 1, dtype=torch.int64), (8, 14, 14), TokenGrid(8, 14, 14), 8)
    assert not visible.any() and not counts.any()
