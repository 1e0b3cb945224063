"""Router probes: a small network scores every token; the probe classifies the softmax-weighted mean of the tokens."""

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from hpc_jepa.evaluation.probes.probe_registry import ProbeShape, register_probe
from hpc_jepa.evaluation.probes.temporal import DROPOUT, ClassifierHead


@register_probe("motion_router", "tubelets", "tokens")
class MotionRouter(nn.Module):
    """Scores tokens by their features and their absolute difference from the previous tubelet.

    Reads tubelets [B, T, D], or all tokens [B, T * H * W, D], where each patch is compared with itself.
    """

    def __init__(self, shape: ProbeShape) -> None:
        super().__init__()
        width = shape.width
        self.tubelets = shape.tubelets
        self.score = nn.Sequential(nn.LayerNorm(2 * width), *_scorer(2 * width, width // 2))
        self.head = ClassifierHead(width, shape.classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """-> logits [B, classes]."""
        by_time = rearrange(tokens, "b (t p) d -> b t p d", t=self.tubelets)
        motion = (by_time - by_time.roll(1, dims=1)).abs()
        motion = torch.cat([torch.zeros_like(motion[:, :1]), motion[:, 1:]], dim=1)
        scores = self.score(torch.cat([by_time, motion], dim=-1))
        logits: Tensor = self.head(_weighted_mean(tokens, rearrange(scores, "b t p 1 -> b (t p)")))
        return logits


@register_probe("spatial_router", "tokens")
class SpatialRouter(nn.Module):
    """Scores tokens by their features alone, independent of position and time."""

    def __init__(self, shape: ProbeShape) -> None:
        super().__init__()
        width = shape.width
        self.score = nn.Sequential(nn.LayerNorm(width), *_scorer(width, width // 2))
        self.head = ClassifierHead(width, shape.classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> logits [B, classes]."""
        logits: Tensor = self.head(_weighted_mean(tokens, self.score(tokens).squeeze(-1)))
        return logits


def _scorer(width: int, hidden: int) -> tuple[nn.Module, ...]:
    return nn.Linear(width, hidden), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(hidden, 1)


def _weighted_mean(tokens: Tensor, scores: Tensor) -> Tensor:
    """[B, N, D], [B, N] -> [B, D]."""
    return einsum(scores.softmax(dim=-1), tokens, "b n, b n d -> b d")
