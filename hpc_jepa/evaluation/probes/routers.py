"""Routers: a small network scores every token, and the probe reads the mean of the tokens weighed by softmax."""

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from hpc_jepa.evaluation.probes.temporal import DROPOUT, ClassifierHead


class MotionRouter(nn.Module):
    """Scores tell tokens by what they are and by how much they differ from the tubelet before.

    Reads tubelets [B, T, D], or all tokens [B, T * H * W, D], each against its own patch of the tubelet before.
    """

    def __init__(self, width: int, classes: int, tubelets: int) -> None:
        super().__init__()
        self.tubelets = tubelets
        self.score = nn.Sequential(nn.LayerNorm(2 * width), *_scorer(2 * width, width // 2))
        self.head = ClassifierHead(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """-> logits [B, classes]."""
        by_time = rearrange(tokens, "b (t p) d -> b t p d", t=self.tubelets)
        motion = (by_time - by_time.roll(1, dims=1)).abs()
        motion = torch.cat([torch.zeros_like(motion[:, :1]), motion[:, 1:]], dim=1)
        scores = self.score(torch.cat([by_time, motion], dim=-1))
        logits: Tensor = self.head(_weighted_mean(tokens, rearrange(scores, "b t p 1 -> b (t p)")))
        return logits


class SpatialRouter(nn.Module):
    """Scores tell tokens by what they are, wherever and whenever they are."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.LayerNorm(width), *_scorer(width, width // 2))
        self.head = ClassifierHead(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> logits [B, classes]."""
        logits: Tensor = self.head(_weighted_mean(tokens, self.score(tokens).squeeze(-1)))
        return logits


def _scorer(width: int, hidden: int) -> tuple[nn.Module, ...]:
    return nn.Linear(width, hidden), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(hidden, 1)


def _weighted_mean(tokens: Tensor, scores: Tensor) -> Tensor:
    """[B, N, D], [B, N] -> [B, D]."""
    return einsum(scores.softmax(dim=-1), tokens, "b n, b n d -> b d")
