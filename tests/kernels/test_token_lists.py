from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from hpc_jepa.kernels.token_lists import count_pairs, smallest_counts, token_list, token_lists, truncate, tube_order
from hpc_jepa.types import TokenGrid, TokenLists, Truncation, context_distance, next_in_context

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
def test_distances_equal_the_recording(group):
    arrays = np.load(Path(__file__).parents[1] / "golden" / "case1.npz")
    context, target, recorded = (
        torch.from_numpy(arrays[name]) for name in (f"c{group}", f"q{group}", f"distance_weights.{group}")
    )
    assert torch.equal(context_distance(context, target, TokenGrid(4, 4, 4)), recorded)


@settings(deadline=None)
@given(GRIDS, SEEDS)
def test_distances_are_to_the_nearest_target(grid, seed):
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
def test_pairs_are_tokens_with_a_next_position(grid, seed):
    context, _ = random_split(grid, seed)
    chosen = torch.zeros(3, grid.tokens, dtype=torch.bool).scatter(1, context, True)
    assert torch.equal(count_pairs(chosen, grid), (next_in_context(context, grid) >= 0).sum(1))


@pytest.fixture(scope="module", params=["plain", "triton"])
def form(request, device):
    """``token_lists`` in both implementations, on CPU tensors."""

    def triton(visible, truncation, wanted, grid):
        from hpc_jepa.kernels.triton.token_lists import token_lists_triton

        order = None if truncation.order is None else truncation.order.to(device)
        there = replace(truncation, limits=truncation.limits.to(device), order=order)
        return TokenLists(*(tensor.cpu() for tensor in token_lists_triton(visible.to(device), there, wanted, grid)))

    return {"plain": token_lists, "triton": triton}[request.param]


@st.composite
def cases(draw):
    """Visible tokens [6, N] of a batch in 1 to 3 parts, some visible and some hidden in every clip, and an order."""
    grid = draw(GRIDS)
    generator = torch.Generator().manual_seed(draw(SEEDS))
    visible = torch.rand(6, grid.tokens, generator=generator) < draw(st.floats(0.1, 0.9))
    visible[:, 0], visible[:, -1] = True, False
    order = torch.rand(6, grid.tokens, generator=generator).argsort(1) if draw(st.booleans()) else None
    return grid, visible, order, draw(st.sampled_from([1, 2, 3])), draw(st.booleans())


@settings(deadline=None, max_examples=40)
@given(cases())
def test_lists_follow_the_definition(form, case):
    """Token by token: truncated to the smallest count of the part, sorted, with distances and positions."""
    grid, visible, order, parts, complement = case
    limits = smallest_counts(visible.sum(1), parts, grid.tokens, complement)
    share = 6 // parts
    wanted = slice(6 - share, 6)
    lists = form(visible, Truncation(limits, tuple(limits[-1].tolist()), order, complement), wanted, grid)
    ranked = torch.arange(grid.tokens).expand(6, -1) if order is None else order
    contexts, targets = [], []
    for clip in range(6):
        part = slice(clip // share * share, clip // share * share + share)
        keep, predict = int(visible[part].sum(1).min()), int((~visible[part]).sum(1).min())
        seen = [token for token in ranked[clip].tolist() if visible[clip, token]]
        hidden = [token for token in ranked[clip].tolist() if not visible[clip, token]]
        contexts.append(sorted(seen[:keep]))
        targets.append(sorted(set(range(grid.tokens)) - set(contexts[-1]) if complement else hidden[:predict]))
    following = [[c.index(n + grid.cells) if n + grid.cells in c else -1 for n in c] for c in contexts]
    assert lists.context.tolist() == contexts[wanted]
    assert lists.target.tolist() == targets[wanted]
    assert lists.next_in_context.tolist() == following[wanted]
    assert lists.pairs.tolist() == [sum(position >= 0 for position in row) for row in following]
    there, here = (places(torch.tensor(tokens), grid) for tokens in (targets[wanted], contexts[wanted]))
    nearest = torch.stack([torch.from_numpy(cdist(c, q).min(1)) for c, q in zip(here, there, strict=True)])
    assert lists.context_distance.dtype == torch.float32
    torch.testing.assert_close(lists.context_distance.double(), nearest.sqrt(), rtol=1e-7, atol=0)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), SEEDS)
def test_truncation_keeps_the_first_tokens_in_order(clips, limit, seed):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(clips, 12, generator=generator) < 0.6
    order = torch.rand(clips, 12, generator=generator).argsort(1)
    kept = truncate(chosen, torch.full((clips, 1), limit), order)
    for clip in range(clips):
        expected = [token for token in order[clip].tolist() if chosen[clip, token]][:limit]
        assert sorted(expected) == kept[clip].nonzero().flatten().tolist()


def test_each_part_of_the_batch_has_its_own_limits():
    counts = torch.tensor([5, 7, 3, 9])
    assert smallest_counts(counts, 1, 10, False).tolist() == [[3, 1]]
    assert smallest_counts(counts, 2, 10, False).tolist() == [[5, 3], [3, 1]]
    assert smallest_counts(counts, 2, 10, True).tolist() == [[5, 5], [3, 7]]


def test_token_lists_are_ascending():
    chosen = torch.tensor([[True, False, True, True], [False, True, True, True]])
    assert token_list(chosen).tolist() == [[0, 2, 3], [1, 2, 3]]


def test_a_tube_order_has_all_tubelets_of_a_place_together():
    order = tube_order(torch.tensor([[2, 0, 3, 1]]), TokenGrid(3, 2, 2))
    assert order.tolist() == [[2, 6, 10, 0, 4, 8, 3, 7, 11, 1, 5, 9]]
