"""Contrastive projection heads for frozen clip features and frozen caption embeddings, S seeds side by side."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import einsum
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from hpc_jepa.config.benchmark import TextConfig
from hpc_jepa.evaluation.frozen_features import FrozenFeatures, Standardiser
from hpc_jepa.evaluation.progress import Advance
from hpc_jepa.kernels.eager_optimizer import eager_optimizer

INITIAL_TEMPERATURE = 0.07
MIN_TEMPERATURE = 0.01
QUERY_CHUNK = 256


class ProjectionHeads(nn.Module):
    """One linear map for clips and one for captions, into a shared space; weights [S, width, inputs]."""

    def __init__(self, video_width: int, text_width: int, width: int, seeds: Sequence[int]) -> None:
        super().__init__()
        initial = [_initial_weights((video_width, text_width), width, seed) for seed in seeds]
        self.video = nn.Parameter(torch.stack([video for video, _ in initial]))
        self.text = nn.Parameter(torch.stack([text for _, text in initial]))
        self.log_scale = nn.Parameter(torch.full((len(seeds),), -math.log(INITIAL_TEMPERATURE)))

    def videos(self, features: Tensor) -> Tensor:
        """[B, inputs] -> unit vectors [S, B, width]."""
        return normalize(einsum(self.video, features, "s w i, b i -> s b w"), dim=-1)

    def texts(self, sentences: Tensor) -> Tensor:
        """[B, inputs] -> unit vectors [S, B, width]."""
        return normalize(einsum(self.text, sentences, "s w i, b i -> s b w"), dim=-1)

    def loss(self, features: Tensor, sentences: Tensor, captions: Tensor) -> Tensor:
        """InfoNCE in both directions, summed over seeds. Clips with the same caption index [B] are positives."""
        similarity = einsum(self.videos(features), self.texts(sentences), "s v w, s t w -> s v t")
        scale = self.log_scale.clamp(max=-math.log(MIN_TEMPERATURE)).exp()
        logits = similarity * scale.view(-1, 1, 1)
        positives = (captions[:, None] == captions).float()
        targets = (positives / positives.sum(dim=1, keepdim=True)).expand(len(logits), -1, -1).flatten(0, 1)
        losses = cross_entropy(logits.flatten(0, 1), targets), cross_entropy(logits.mT.flatten(0, 1), targets)
        return (losses[0] + losses[1]) / 2 * len(logits)


def fit_projection_heads(
    features: FrozenFeatures,
    standardiser: Standardiser,
    sentences: Tensor,
    captions: Tensor,
    config: TextConfig,
    seeds: Sequence[int],
    advance: Advance,
) -> ProjectionHeads:
    """Train heads on pooled features [n, N, D] and their captions.

    sentences: [U, E] embeddings of the distinct captions. captions: [n] caption index of each clip.
    """
    device = sentences.device
    inputs = features.tokens.shape[1] * features.width
    heads = ProjectionHeads(inputs, sentences.shape[1], config.width, seeds).to(device)
    settings = {"lr": config.lr, "weight_decay": config.weight_decay}
    optimizer = eager_optimizer(torch.optim.AdamW, heads.parameters(), **settings)
    rng = np.random.default_rng(0)
    for _ in range(config.updates):
        rows = rng.choice(len(features), min(config.batch_size, len(features)), replace=False)
        index = captions[torch.from_numpy(rows).to(device)]
        loss = heads.loss(standardiser(features.batch(rows, device)).flatten(1), sentences[index], index)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        advance()
    return heads.eval()


def retrieval_ranks(queries: Tensor, candidates: Tensor, answers: Tensor) -> Tensor:
    """[S, Q]: number of wrong candidates at least as similar to a query as its most similar correct one.

    queries [S, Q, W] and candidates [S, C, W] are unit vectors; answers [Q, C] marks the correct candidates. Ties count
    against the query, so constant vectors retrieve nothing.
    """
    ranks = []
    for start in range(0, queries.shape[1], QUERY_CHUNK):
        similarity = queries[:, start : start + QUERY_CHUNK] @ candidates.mT
        right = answers[start : start + QUERY_CHUNK]
        best = similarity.masked_fill(~right, -torch.inf).amax(dim=-1, keepdim=True)
        ranks.append(((similarity >= best) & ~right).sum(dim=-1))
    return torch.cat(ranks, dim=1)


def _initial_weights(inputs: tuple[int, int], width: int, seed: int) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        video, text = (nn.Linear(size, width, bias=False).weight.detach() for size in inputs)
        return video, text
