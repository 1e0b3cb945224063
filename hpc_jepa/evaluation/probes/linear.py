"""Linear probes: one layer on pooled features, all seeds and hyperparameters in one matrix product."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear

from hpc_jepa.evaluation.probes.probe_registry import ProbeShape, register_probe


@register_probe("linear", "mean", "tubelets", stacked=True)
class LinearProbes(nn.Module):
    """S independent layers, weight [S, classes, N * D], bias [S, classes], with torch's default initialisation."""

    def __init__(self, shape: ProbeShape, seeds: Sequence[int]) -> None:
        super().__init__()
        layers = [_initial(shape.tokens * shape.width, shape.classes, seed) for seed in seeds]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, features: Tensor) -> Tensor:
        """Pooled features [B, N, D] -> logits [S, B, classes]."""
        logits = linear(features.flatten(1), self.weight.flatten(0, 1), self.bias.flatten())
        return rearrange(logits, "b (s c) -> s b c", s=len(self.bias))


def _initial(width: int, classes: int, seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(width, classes)
