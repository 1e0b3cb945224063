"""Temporal pairs: a context token and the token at the same place one tubelet later."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.objectives.objective import ObjectiveContext
from hpc_jepa.types import Latents, TokenGrid, TokenMasks

PairKind = Literal["context", "forecast"]


@dataclass(frozen=True)
class Pairs:
    """The temporal pairs of one mask group, one entry per context token.

    later: [B, K] token one tubelet later, or the token itself. valid: [B, K] 1 if the pair exists, else 0.
    count: [] valid pairs of this process, averaged over the processes that share statistics.
    """

    later: Tensor
    valid: Tensor
    count: Tensor


def check_forecast(kind: PairKind, config: RunConfig) -> None:
    """Raise ValueError if no mask group of a run leaves tubelets to forecast."""
    if kind == "forecast" and all(group.temporal_keep == 1 for group in config.masking.groups):
        raise ValueError("pairs: forecast needs a context that ends early; set temporal_keep below 1 in masking.groups")


def context_pairs(latents: Latents) -> tuple[Pairs, ...]:
    """Pairs with both tokens in the context. Attention is bidirectional: the first has seen the second (B12)."""
    return tuple(
        Pairs(_later(masks.context, valid, latents), valid, masks.pairs)
        for masks, valid in zip(latents.masks, latents.valid_pairs, strict=True)
    )


def forecast_pairs(latents: Latents, ctx: ObjectiveContext) -> tuple[Pairs, ...]:
    """Pairs from the last tubelet of the context to the tubelet after it, which the student has not seen (B12).

    Needs masks whose context ends before the clip does (``temporal_keep`` below 1).
    """
    pairs = []
    for index, masks in enumerate(latents.masks):
        valid = _last_in_context(masks, latents.grid)
        count = ctx.mean_count(valid.sum(), latents, index, lambda masks: _last_in_context(masks, latents.grid).sum())
        pairs.append(Pairs(_later(masks.context, valid, latents), valid, count))
    return tuple(pairs)


def temporal_pairs(kind: PairKind, latents: Latents, ctx: ObjectiveContext) -> tuple[Pairs, ...]:
    """Pairs of the given kind, per mask group."""
    return context_pairs(latents) if kind == "context" else forecast_pairs(latents, ctx)


def target_changes(latents: Latents, pairs: tuple[Pairs, ...]) -> list[Tensor]:
    """Target at the later token minus target at the context token; per mask group [B, K, D], detached."""
    return [
        (latents.target_at(group.later) - now).detach()
        for group, now in zip(pairs, latents.target_at_context, strict=True)
    ]


def _last_in_context(masks: TokenMasks, grid: TokenGrid) -> Tensor:
    """1 for tokens of the last tubelet of the context, unless the clip or its real part ends there: [B, K] float32."""
    tubelet = masks.context // grid.cells
    last = tubelet.amax(1, keepdim=True)
    end = grid.time if masks.padding is None else masks.padding.real[:, None] // grid.cells
    return ((tubelet == last) & (last + 1 < end)).float()


def _later(context: Tensor, valid: Tensor, latents: Latents) -> Tensor:
    return (context + latents.grid.cells).where(valid > 0, context)
