"""Several objectives as one: the base loss and whatever the run lists beside it."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from hpc_jepa.config.run import ObjectiveChoice
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.errors import InputError
from hpc_jepa.objectives.base import Base, BaseOptions
from hpc_jepa.objectives.objective import ObjectiveContext
from hpc_jepa.objectives.registry import parse_options, primitives, resolve_choices
from hpc_jepa.types import Latents, TokenGrid


class ObjectiveSet(nn.Module):
    """The loss of a run: ``sum over terms of weights(step)[term] * forward(latents)[term]``."""

    def __init__(self, choices: Sequence[ObjectiveChoice], ctx: ObjectiveContext, context_weight: float) -> None:
        super().__init__()
        options = parse_options(choices)
        ctx = replace(ctx, other_objectives=options)
        self._fp32 = ctx.semantics.auxiliary_precision == "fp32"
        self.base = Base(BaseOptions(context_weight=context_weight), ctx)
        self.auxiliary = nn.ModuleDict({name: primitives()[name](chosen, ctx) for name, chosen in options.items()})

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Unweighted scalar terms by name, base terms first."""
        terms = self.base.forward(latents)
        device = latents.target.device.type
        with torch.autocast(device, enabled=False) if self._fp32 else nullcontext():
            for objective in self.auxiliary.values():
                terms |= objective.forward(latents)
        return terms

    def weights(self, step: int) -> dict[str, float]:
        """Coefficient of every term at ``step``."""
        weights = self.base.weights(step)
        for objective in self.auxiliary.values():
            weights |= objective.weights(step)  # type: ignore[operator]
        return weights


def build_objective(
    name: str | Sequence[ObjectiveChoice],
    *,
    width: int,
    levels: int,
    grid: TokenGrid,
    semantics: str | Semantics = "corrected",
    steps: int = 30_000,
    context_weight: float = 0.5,
    **overrides: object,
) -> ObjectiveSet:
    """The loss of a named composition or primitive (base terms included).

    width: channels C of one level; levels: L; ``steps`` scales the context ramp. ``overrides`` replace options, by the
    name of their primitive, or alone where one primitive has them: ``ld={"hidden": 128}`` or ``hidden=128``.
    Raises InputError for unknown names and options.
    """
    choices = apply_overrides(name, overrides)
    resolved = Semantics.of(semantics) if isinstance(semantics, str) else semantics
    ctx = ObjectiveContext(width=width, levels=levels, grid=grid, semantics=resolved, steps=steps, other_objectives={})
    return ObjectiveSet(choices, ctx, context_weight)


def apply_overrides(
    name: str | Sequence[ObjectiveChoice], overrides: Mapping[str, object]
) -> tuple[ObjectiveChoice, ...]:
    """Choices of a composition with some options replaced, and primitives named in ``overrides`` added.

    Raises InputError for an option that none of them, or more than one, has.
    """
    options = {
        choice.name: dict(choice.options) for choice in (resolve_choices(name) if isinstance(name, str) else name)
    }
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            options.setdefault(key, {}).update(value)
            continue
        owners = [part for part in options if key in primitives()[part].options_type.model_fields]
        if len(owners) != 1:
            raise InputError(f"{key}: an option of {' and '.join(owners) or 'none'} of {', '.join(options) or 'them'}")
        options[owners[0]][key] = value
    return tuple(ObjectiveChoice(name=part, options=chosen) for part, chosen in options.items())
