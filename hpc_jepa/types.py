"""Data types of a training step.

tar shard -> ClipBatch -> TokenMasks -> VideoJEPA -> Latents -> objectives -> loss
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from hpc_jepa.distributed import sum_over_processes, world_size

BlockSize = tuple[int, int, int]
"""Tokens of a block along time, height and width."""


@dataclass(frozen=True)
class TokenGrid:
    """Number of tokens of a clip along time, height and width; token n = (t*height + y)*width + x.

    image: the tokens are those of a single image, which has its own patch embedding and modality vector.
    """

    time: int
    height: int
    width: int
    image: bool = False

    @property
    def tokens(self) -> int:
        """N = T*H*W."""
        return self.time * self.height * self.width

    @property
    def cells(self) -> int:
        """Tokens of one tubelet, H*W: the index distance to the same place one tubelet later."""
        return self.height * self.width

    def origin_counts(self, block: BlockSize) -> tuple[int, int, int]:
        """Number of possible first tokens of a block along each axis."""
        time, height, width = block
        return self.time - time + 1, self.height - height + 1, self.width - width + 1


@dataclass(frozen=True)
class ClipBatch:
    """The clips of one process for one step.

    pixels: [B, C, F, Hp, Wp] float32, normalised; F = 1 in a batch of images.
    samples: [B] int64, index of the sample in its source.
    sources: [B] int64, index of the source in the mixture.
    static: [B] bool, the clip is one image repeated.
    real_frames: [B] int64 on the host, leading frames that are no padding; None: all count, padding too.
    """

    pixels: Tensor
    samples: Tensor
    sources: Tensor
    static: Tensor
    real_frames: Tensor | None = None


class Padding(NamedTuple):
    """Which tokens of clips are padding, in a step in which a clip has any.

    real: [B] int64, leading tokens that are none: those of tubelets with a real frame. context_count, target_count: []
    float32, such tokens in the context and in the target, averaged over the processes and micro-batches that share
    statistics.
    """

    real: Tensor
    context_count: Tensor
    target_count: Tensor

    def is_real(self, tokens: Tensor) -> Tensor:
        """1 for tokens [B, M] that are no padding, else 0: [B, M] float32."""
        return (tokens < self.real[:, None]).float()


@dataclass(frozen=True)
class TokenMasks:
    """Context and target tokens of one mask group, with distances and temporal neighbours.

    context: [B, K] int64, tokens that the student sees, ascending.
    target: [B, Q] int64, tokens to predict, ascending, disjoint from the context.
    context_distance: [B, K] float32, sqrt of the grid distance to the nearest target token.
    next_in_context: [B, K] int64, position k' in the context of the same place one tubelet later, or -1.
    pairs: [] float32, number of entries of next_in_context >= 0, averaged over the processes that share statistics; by
        default that of these clips.
    padding: which tubelets are padding, if any of the step is. Their tokens are in no pair.
    """

    context: Tensor
    target: Tensor
    context_distance: Tensor
    next_in_context: Tensor
    pairs: Tensor = None  # type: ignore[assignment]
    padding: Padding | None = None

    def __post_init__(self) -> None:
        if self.pairs is None:
            object.__setattr__(self, "pairs", (self.next_in_context >= 0).sum().float())

    @classmethod
    def from_indices(cls, context: Tensor, target: Tensor, grid: TokenGrid) -> "TokenMasks":
        """Masks from the token numbers of any mask sampler: context [B, K] and target [B, Q], in any order.

        All processes of a process group must call this together: ``pairs`` is averaged over them.
        Raises ValueError if the two are not lists for the same clips.
        """
        if context.dim() != 2 or target.dim() != 2 or len(context) != len(target):
            raise ValueError(f"context {list(context.shape)} and target {list(target.shape)} must be [B, K] and [B, Q]")
        context, target = (tokens.long().sort(1).values for tokens in (context, target))
        next_position = next_in_context(context, grid)
        pairs = sum_over_processes((next_position >= 0).sum().float()) / world_size()
        return cls(context, target, context_distance(context, target, grid), next_position, pairs)


class TokenLists(NamedTuple):
    """Token lists of some clips, as in TokenMasks, and the pair counts of all clips of the global batch [G] int64."""

    context: Tensor
    target: Tensor
    context_distance: Tensor
    next_in_context: Tensor
    pairs: Tensor


@dataclass(frozen=True)
class Truncation:
    """How the token lists of the global batch are cut to one length.

    limits: [parts, 2] int64, number of context and target tokens that each clip of a part of the batch keeps.
    lengths: limits of the part with the requested clips, as Python numbers.
    order: [G, N] int64, a permutation of the tokens of each clip; the first are kept. None: raster order.
    complement: every token outside the context becomes a target.
    """

    limits: Tensor
    lengths: tuple[int, int]
    order: Tensor | None = None
    complement: bool = False


def _cached_property(compute: "Callable[[Latents], tuple[Tensor, ...]]") -> property:
    """A property computed once. (functools.cached_property holds a lock, which torch.compile cannot trace.)"""
    return property(lambda latents: latents.cached(compute), doc=compute.__doc__)


@dataclass(frozen=True)
class Latents:
    """Outputs of the networks for one batch; tuples hold one entry per mask group.

    student: [B, K, D] context features, D = levels * width, shallow level first.
    prediction: [B, Q, D] predictor outputs at target tokens.
    context_prediction: [B, K, D] predictor outputs at context tokens.
    target: [B, N, D] features of the full clip; no gradient under EMA. If ``target_levels`` > 0 they are unnormalised:
        target_at() layer-norms each level of the tokens it returns. If 0 they are already normalised.
    pixels: [B, C, F, Hp, Wp] the normalised clip.
    step: the training step, which seeds terms that draw random numbers.
    step_masks: with gradient accumulation the masks of all micro-batches of this process, for counts; else empty.
    """

    student: tuple[Tensor, ...]
    prediction: tuple[Tensor, ...]
    context_prediction: tuple[Tensor, ...]
    target: Tensor
    masks: tuple[TokenMasks, ...]
    grid: TokenGrid
    pixels: Tensor
    step: int = 0
    target_levels: int = 0
    step_masks: tuple[tuple[TokenMasks, ...], ...] = ()
    _cache: dict[Any, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def cached(self, compute: "Callable[..., tuple[Tensor, ...]]", *args: int) -> tuple[Tensor, ...]:
        """``compute(self, *args)``, computed once for all terms that use it."""
        key = (compute, *args)
        if key not in self._cache:
            self._cache[key] = compute(self, *args)
        return self._cache[key]

    def target_at(self, tokens: Tensor) -> Tensor:
        """Normalised target features at ``tokens`` [B, M]: [B, M, D]."""
        return self._normalised(gather_tokens(self.target, tokens))

    def normalised_target(self) -> Tensor:
        """Normalised target features of all tokens: [B, N, D]."""
        return self._normalised(self.target)

    def _normalised(self, features: Tensor) -> Tensor:
        return normalise_levels(features, self.target_levels) if self.target_levels else features

    @_cached_property
    def target_at_context(self) -> tuple[Tensor, ...]:
        """Target features at the context tokens; per mask group [B, K, D]."""
        return tuple(self.target_at(masks.context) for masks in self.masks)

    def normalised_student(self, levels: int) -> tuple[Tensor, ...]:
        """Student features with each level layer-normalised without gain (eps 1e-5); per mask group [B, K, D] fp32."""
        return self.cached(_normalised_student, levels)

    @_cached_property
    def target_change(self) -> tuple[Tensor, ...]:
        """Target one tubelet later minus target, at context tokens; per mask group [B, K, D], detached.

        0 where the next tubelet is not in the context; pair masks exclude those tokens.
        """
        changes = []
        for masks, now in zip(self.masks, self.target_at_context, strict=True):
            later = (masks.context + self.grid.cells).where(masks.next_in_context >= 0, masks.context)
            changes.append((self.target_at(later) - now).detach())
        return tuple(changes)

    @_cached_property
    def real_context(self) -> tuple[Tensor, ...]:
        """1 for context tokens that are no padding; per mask group [B, K] float32. Empty if no clip has padding."""
        return tuple(masks.padding.is_real(masks.context) for masks in self.masks if masks.padding is not None)

    @_cached_property
    def valid_pairs(self) -> tuple[Tensor, ...]:
        """1 where the same place one tubelet later is in the context too, else 0; per mask group [B, K] float32."""
        return tuple((masks.next_in_context >= 0).to(torch.float32) for masks in self.masks)


def _normalised_student(latents: Latents, levels: int) -> tuple[Tensor, ...]:
    return tuple(normalise_levels(features, levels) for features in latents.student)


def gather_tokens(features: Tensor, tokens: Tensor) -> Tensor:
    """Rows of ``features`` [B, N, D] at ``tokens`` [B, M] -> [B, M, D]; the index is expanded, not copied."""
    return features.gather(1, tokens.unsqueeze(-1).expand(-1, -1, features.shape[-1]))


def normalise_levels(features: Tensor, levels: int) -> Tensor:
    """Layer norm without gain or bias (eps 1e-5) over each of the ``levels`` blocks of the last axis, in float32."""
    by_level = rearrange(features.float(), "... (level channel) -> ... level channel", level=levels)
    return torch.nn.functional.layer_norm(by_level, by_level.shape[-1:]).flatten(-2)


def context_distance(context: Tensor, target: Tensor, grid: TokenGrid) -> Tensor:
    """Square root of the grid distance from each context token [B, K] to the nearest target token [B, Q]: [B, K] fp32.

    Exact Euclidean distance transform, one axis after the other (Felzenszwalb and Huttenlocher 2012): T + H + W steps
    per token instead of one for every pair of tokens. The current axis comes first and clips last, so that each step
    reads contiguous memory.
    """
    infinite = torch.full((grid.tokens, len(target)), torch.inf, device=target.device)
    squared = infinite.scatter_(0, target.T, 0.0).view(grid.time, grid.height, grid.width, -1)
    for _ in range(3):
        squared = _minimum_along_axis(squared).movedim(0, 2).contiguous()  # the next axis comes first
    return squared.flatten(0, 2).T.gather(1, context).sqrt().sqrt()


def _minimum_along_axis(squared: Tensor) -> Tensor:
    """Squared distances [places, ...] when steps along the first axis are allowed too.

    One place of the axis at a time: a table of all pairs of places would not fit into the cache.
    """
    index = torch.arange(len(squared), device=squared.device, dtype=squared.dtype)
    steps = (index[:, None] - index).square()[..., None, None, None]
    lowest, candidate = squared[0] + steps[0], torch.empty_like(squared)
    for start in range(1, len(squared)):
        torch.add(squared[start], steps[start], out=candidate)
        torch.minimum(lowest, candidate, out=lowest)
    return lowest


def next_in_context(context: Tensor, grid: TokenGrid) -> Tensor:
    """For each context token [B, K] the position in the context of its place one tubelet later, or -1: [B, K] int64."""
    positions = torch.arange(context.shape[1], device=context.device).expand_as(context)
    beyond_the_clip = grid.tokens + grid.cells
    position_of = context.new_full((len(context), beyond_the_clip), -1).scatter_(1, context, positions)
    return position_of.gather(1, context + grid.cells)
