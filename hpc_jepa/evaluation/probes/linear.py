"""Linear probes: one layer on features as they come, many of them as one matrix product."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear


class LinearProbes(nn.Module):
    """S independent layers, weight [S, classes, N * D], bias [S, classes], with torch's default initialisation."""

    def __init__(self, width: int, classes: int, seeds: Sequence[int]) -> None:
        super().__init__()
        singles = [_initial(width, classes, seed) for seed in seeds]
        self.weight = nn.Parameter(torch.stack([single.weight.detach() for single in singles]))
        self.bias = nn.Parameter(torch.stack([single.bias.detach() for single in singles]))

    def forward(self, features: Tensor) -> Tensor:
        """Pooled features [B, N, D] -> logits [S, B, classes]."""
        logits = linear(features.flatten(1), self.weight.flatten(0, 1), self.bias.flatten())
        return rearrange(logits, "b (s c) -> s b c", s=len(self.bias))


def _initial(width: int, classes: int, seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(width, classes)
