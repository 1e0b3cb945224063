"""Random directions as a custom operator, so that torch.compile can trace it."""

import torch
from torch import Tensor


@torch.library.custom_op("hpc_jepa::random_directions", mutates_args=())
def random_directions(like: Tensor, count: int, step: int) -> Tensor:
    """Unit columns [D, count] float32 for rows ``like`` [n, D]; depends on ``step`` and the device type only."""
    generator = torch.Generator(like.device).manual_seed(step)
    directions: Tensor = torch.randn(like.shape[1], count, generator=generator, device=like.device)
    return directions.div_(directions.norm(dim=0))


@random_directions.register_fake
def _(like: Tensor, count: int, step: int) -> Tensor:
    return like.new_empty(like.shape[1], count, dtype=torch.float32)
