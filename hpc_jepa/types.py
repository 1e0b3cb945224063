"""The nouns that flow through a training step.

tar shard -> ClipBatch -> TokenMasks -> VideoJEPA -> Latents -> objectives -> loss
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class TokenGrid:
    """Tokens of a clip along time, rows and columns; token n = (t*height + y)*width + x.

    image: the tokens are of single images, which the networks tell from videos.
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
        """Tokens of one tubelet, H*W: the distance between a token and the same place one tubelet later."""
        return self.height * self.width


@dataclass(frozen=True)
class ClipBatch:
    """The clips of one process for one step.

    pixels: [B, C, F, Hp, Wp] float32, normalised; F = 1 in a batch of images.
    samples: [B] int64, index of the sample within its source.
    sources: [B] int64, index of the source within the mixture.
    static: [B] bool, the clip is one image repeated.
    """

    pixels: Tensor
    samples: Tensor
    sources: Tensor
    static: Tensor


@dataclass(frozen=True)
class TokenMasks:
    """Context and target tokens of one mask group, and what depends on them alone.

    context: [B, K] int64, tokens the student sees, ascending.
    target: [B, Q] int64, tokens to predict, ascending, disjoint from the context.
    context_distance: [B, K] float32, sqrt of the grid distance to the nearest target token.
    next_in_context: [B, K] int64, position k' in the context of the same place one tubelet later, or -1.
    pairs: [] float32, number of entries of next_in_context >= 0, averaged over the processes that share statistics; by
        default those of these clips.
    """

    context: Tensor
    target: Tensor
    context_distance: Tensor
    next_in_context: Tensor
    pairs: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.pairs is None:
            object.__setattr__(self, "pairs", (self.next_in_context >= 0).sum().float())


def _cached_property(make: "Callable[[Latents], tuple[Tensor, ...]]") -> property:
    """A property computed when first read. (functools.cached_property holds a lock, which no graph can enter.)"""
    name = make.__name__

    def read(latents: "Latents") -> tuple[Tensor, ...]:
        if name not in latents.cache:
            latents.cache[name] = make(latents)
        return latents.cache[name]

    return property(read, doc=make.__doc__)


@dataclass(frozen=True)
class Latents:
    """What the networks made of one batch; tuples hold one entry per mask group.

    student: [B, K, D] context features, D = levels * width, shallow level first.
    prediction: [B, Q, D] predictor outputs at target tokens.
    context_prediction: [B, K, D] predictor outputs at context tokens.
    target: [B, N, D] features of the full clip; no gradient under EMA. With ``target_levels`` they are as the target
        network left them and each of that many levels is still to be layer-normalised without gain, which
        ``target_at`` does for the tokens that are wanted; with 0 they are normalised.
    pixels: [B, C, F, Hp, Wp] the normalised clip.
    step: the training step, for terms that draw something anew in each.
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
    cache: dict[str, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        """Per group [B, K, D]: target features at the context tokens."""
        return tuple(self.target_at(masks.context) for masks in self.masks)

    def normalised_student(self, levels: int) -> tuple[Tensor, ...]:
        """Per group [B, K, D] float32: student features with each level layer-normalised without gain (eps 1e-5)."""
        name = f"student normalised in {levels} levels"
        if name not in self.cache:
            self.cache[name] = tuple(normalise_levels(features, levels) for features in self.student)
        return self.cache[name]

    @_cached_property
    def target_change(self) -> tuple[Tensor, ...]:
        """Per group [B, K, D]: target one tubelet later minus target, at context tokens; detached.

        The last tubelet has no successor and repeats its own place (change 0); pair masks exclude it.
        """
        changes = []
        for masks, here in zip(self.masks, self.target_at_context, strict=True):
            later = (masks.context + self.grid.cells).where(masks.next_in_context >= 0, masks.context)
            changes.append((self.target_at(later) - here).detach())
        return tuple(changes)

    @_cached_property
    def valid_pairs(self) -> tuple[Tensor, ...]:
        """Per group [B, K] float32: 1 where the same place one tubelet later is in the context too."""
        return tuple((masks.next_in_context >= 0).to(torch.float32) for masks in self.masks)


def gather_tokens(features: Tensor, tokens: Tensor) -> Tensor:
    """Rows of ``features`` [B, N, D] at ``tokens`` [B, M] -> [B, M, D] (a view of the index, no copy of it)."""
    return features.gather(1, tokens.unsqueeze(-1).expand(-1, -1, features.shape[-1]))


def normalise_levels(features: Tensor, levels: int) -> Tensor:
    """Layer norm without gain or bias (eps 1e-5) over each of the ``levels`` blocks of the last axis, in float32."""
    by_level = rearrange(features.float(), "... (level channel) -> ... level channel", level=levels)
    return torch.nn.functional.layer_norm(by_level, by_level.shape[-1:]).flatten(-2)
