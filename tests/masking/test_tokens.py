import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from hpc_jepa.latents import TokenGrid
from hpc_jepa.masking.tokens import context_distance, next_in_context, pairs, token_list, truncate, tube_order

GRIDS = st.builds(TokenGrid, st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)).filter(lambda g: g.tokens > 2)
SEEDS = st.integers(0, 2**32 - 1)


def random_split(grid: TokenGrid, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three clips' disjoint, sorted context and target lists; some tokens are in neither."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(3, grid.tokens, generator=generator).argsort(1)
    first, second = sorted((torch.randperm(grid.tokens - 1, generator=generator)[:2] + 1).tolist())
    return order[:, :first].sort(1).values, order[:, first : second + 1].sort(1).values


def places(tokens: torch.Tensor, grid: TokenGrid) -> torch.Tensor:
    return torch.stack([tokens // grid.cells, tokens // grid.width % grid.height, tokens % grid.width], -1)


@pytest.mark.parametrize("group", ["1", "2"])
def test_distances_are_the_recorded_ones(recorded_case, group):
    context, target = recorded_case[f"c{group}"], recorded_case[f"q{group}"]
    distance = context_distance(context, target, TokenGrid(4, 4, 4))
    assert torch.equal(distance, recorded_case[f"distance_weights.{group}"])


@settings(deadline=None)
@given(GRIDS, SEEDS)
def test_distances_are_those_to_the_nearest_target(grid, seed):
    context, target = random_split(grid, seed)
    expected = [cdist(places(c, grid), places(q, grid)).min(1) ** 0.5 for c, q in zip(context, target, strict=True)]
    torch.testing.assert_close(
        context_distance(context, target, grid).double(), torch.stack([torch.from_numpy(row) for row in expected])
    )


def test_distances_of_a_single_clip_keep_their_batch_axis():
    distance = context_distance(torch.tensor([[0, 5]]), torch.tensor([[1]]), TokenGrid(2, 2, 2))
    torch.testing.assert_close(distance, torch.tensor([[1.0, 1.0]]))


@settings(deadline=None)
@given(GRIDS, SEEDS)
def test_the_next_token_is_the_same_place_one_tubelet_later(grid, seed):
    context, _ = random_split(grid, seed)
    following = next_in_context(context, grid)
    for row, after in zip(context.tolist(), following.tolist(), strict=True):
        expected = [row.index(n + grid.cells) if n + grid.cells in row else -1 for n in row]
        assert after == expected


@settings(deadline=None)
@given(GRIDS, SEEDS)
def test_pairs_count_the_tokens_that_have_a_next_one(grid, seed):
    context, _ = random_split(grid, seed)
    chosen = torch.zeros(3, grid.tokens, dtype=torch.bool).scatter(1, context, True)
    assert torch.equal(pairs(chosen, grid), (next_in_context(context, grid) >= 0).sum(1))


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), SEEDS)
def test_truncation_keeps_the_first_tokens_in_order_down_to_the_smallest_count(processes, clips, seed):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(processes * clips, 12, generator=generator) < 0.6
    order = torch.rand(processes * clips, 12, generator=generator).argsort(1)
    kept = truncate(chosen, order, processes)
    for row in range(processes * clips):
        first = row // clips * clips
        count = min(int(chosen[other].sum()) for other in range(first, first + clips))
        expected = [token for token in order[row].tolist() if chosen[row, token]][:count]
        assert sorted(expected) == kept[row].nonzero().flatten().tolist()


def test_token_lists_ascend():
    chosen = torch.tensor([[True, False, True, True], [False, True, True, True]])
    assert token_list(chosen).tolist() == [[0, 2, 3], [1, 2, 3]]


def test_a_tube_order_goes_through_one_place_at_a_time():
    order = tube_order(torch.tensor([[2, 0, 3, 1]]), TokenGrid(3, 2, 2))
    assert order.tolist() == [[2, 6, 10, 0, 4, 8, 3, 7, 11, 1, 5, 9]]
