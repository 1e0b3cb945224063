"""Pairs of a context token and the same place one tubelet later."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import sum_over_processes, world_size
from hpc_jepa.objectives.objective import ObjectiveContext
from hpc_jepa.types import Latents, TokenMasks

PairKind = Literal["context", "forecast"]


@dataclass(frozen=True)
class Pairs:
    """later: [B, K] token one tubelet on, or itself. valid: [B, K] 1 or 0. count: [] valid pairs of a process."""

    later: Tensor
    valid: Tensor
    count: Tensor


def check_forecast(kind: PairKind, config: RunConfig) -> str | None:
    """Why pairs of this kind do not exist in a run, or None."""
    if kind == "context" or any(group.temporal_keep < 1 for group in config.masking.groups):
        return None
    return "pairs: forecast needs a context that ends before the clip; set temporal_keep below 1 in masking.groups"


def context_pairs(latents: Latents) -> tuple[Pairs, ...]:
    """Both tokens in the context, per group. Attention is bidirectional: the first has seen the second (B12)."""
    return tuple(
        Pairs(_later(masks, latents), valid, masks.pairs)
        for masks, valid in zip(latents.masks, latents.valid_pairs, strict=True)
    )


def forecast_pairs(latents: Latents, ctx: ObjectiveContext) -> tuple[Pairs, ...]:
    """The first token in the last tubelet that the context reaches, the second beyond it: nothing has been seen (B12).

    Needs masks whose context ends before the clip does (``temporal_keep`` below 1).
    """
    found = []
    for masks in latents.masks:
        tubelet = masks.context // latents.grid.cells
        last = tubelet.amax(1, keepdim=True)
        valid = ((tubelet == last) & (last + 1 < latents.grid.time)).float()
        beyond = (masks.context + latents.grid.cells).where(valid > 0, masks.context)
        count = valid.sum()
        if ctx.semantics.batch_statistics == "global":
            count = sum_over_processes(count) / world_size()
        found.append(Pairs(beyond, valid, count))
    return tuple(found)


def temporal_pairs(kind: PairKind, latents: Latents, ctx: ObjectiveContext) -> tuple[Pairs, ...]:
    """Pairs of the given kind."""
    return context_pairs(latents) if kind == "context" else forecast_pairs(latents, ctx)


def target_changes(latents: Latents, pairs: tuple[Pairs, ...]) -> list[Tensor]:
    """Per group [B, K, D]: target at the later token minus target here; detached."""
    return [
        (latents.target_at(group.later) - here).detach()
        for group, here in zip(pairs, latents.target_at_context, strict=True)
    ]


def _later(masks: TokenMasks, latents: Latents) -> Tensor:
    return torch.where(masks.next_in_context >= 0, masks.context + latents.grid.cells, masks.context)
