"""Latents from the recorded case; every tensor is a leaf, so that gradients can be compared."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_jepa.types import Latents, TokenGrid, TokenMasks

sys.path.insert(0, str(Path(__file__).parent))  # objective_steps

GOLDEN = Path(__file__).parents[1] / "golden" / "case1.npz"


def pairs_by_hand(context, grid):
    """Position in the context of the same place one tubelet later, or -1, by plain loops."""
    rows = context.tolist()
    cells = grid.height * grid.width
    nexts = [[row.index(token + cells) if token + cells in row else -1 for token in row] for row in rows]
    return torch.tensor(nexts)


@pytest.fixture(scope="session")
def golden():
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def recorded(golden):
    """(latents, leaves by the names of the recording)."""
    grid = TokenGrid(*(int(golden[axis]) for axis in "THW"))
    names = ["S1", "S2", "P1", "P2", "R1", "R2", "Y"]
    leaves = {name: golden[name].clone().requires_grad_() for name in names}
    masks = []
    for group in "12":
        context, target = golden[f"c{group}"], golden[f"q{group}"]
        following = pairs_by_hand(context, grid)
        masks.append(
            TokenMasks(
                context=context,
                target=target,
                context_distance=golden[f"distance_weights.{group}"],
                next_in_context=following,
            )
        )
    latents = Latents(
        student=(leaves["S1"], leaves["S2"]),
        prediction=(leaves["P1"], leaves["P2"]),
        context_prediction=(leaves["R1"], leaves["R2"]),
        target=leaves["Y"],
        masks=tuple(masks),
        grid=grid,
        pixels=golden["pixels"],
    )
    return latents, leaves
