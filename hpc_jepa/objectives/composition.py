"""The loss of a run: the base loss plus the objectives that the run lists."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from hpc_jepa.config.phases import Ramp
from hpc_jepa.config.run import ObjectiveChoice
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.errors import InputError
from hpc_jepa.objectives.base import Base, BaseOptions
from hpc_jepa.objectives.objective import ObjectiveContext
from hpc_jepa.objectives.registry import parse_options, primitives, resolve_choices
from hpc_jepa.types import Latents, TokenGrid


class ObjectiveSet(nn.Module):
    """The loss of a run: ``sum over terms of weights(step)[term] * forward(latents)[term]``."""

    def __init__(
        self,
        choices: Sequence[ObjectiveChoice],
        ctx: ObjectiveContext,
        context_weight: float | Sequence[Ramp],
        include_base: bool = True,
        distance_weights: bool = True,
    ) -> None:
        """context_weight: its final value, reached over the ramp that the semantics name, or its whole schedule."""
        super().__init__()
        options = parse_options(choices)
        ctx = replace(ctx, other_objectives=options)
        self._fp32 = ctx.semantics.auxiliary_precision == "fp32"
        self.base = _base(context_weight, distance_weights, ctx) if include_base else None
        self.auxiliary = nn.ModuleDict({name: primitives()[name](chosen, ctx) for name, chosen in options.items()})

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Unweighted scalar terms by name, base terms first."""
        terms = {} if self.base is None else self.base.forward(latents)
        device = latents.target.device.type
        with torch.autocast(device, enabled=False) if self._fp32 else nullcontext():
            for objective in self.auxiliary.values():
                terms |= objective.forward(latents)
        return terms

    def weights(self, step: int) -> dict[str, float]:
        """Coefficient of every term at ``step``."""
        weights = {} if self.base is None else self.base.weights(step)
        for objective in self.auxiliary.values():
            weights |= objective.weights(step)  # type: ignore[operator]
        return weights

    def loss(self, latents: Latents) -> Tensor:
        """The weighted sum of all terms at ``latents.step``."""
        return weighted_sum(self(latents), self.weights(latents.step))


def _base(context_weight: float | Sequence[Ramp], distance_weights: bool, ctx: ObjectiveContext) -> Base:
    if isinstance(context_weight, Sequence):
        return Base(BaseOptions(distance_weights=distance_weights), ctx, context_weight)
    return Base(BaseOptions(context_weight=context_weight, distance_weights=distance_weights), ctx)


def weighted_sum(terms: Mapping[str, Tensor], coefficients: Mapping[str, float]) -> Tensor:
    """Sum of the terms, each times its coefficient."""
    return torch.stack([coefficients[name] * term for name, term in terms.items()]).sum()


def build_objective(
    name: str | Sequence[ObjectiveChoice],
    *,
    width: int,
    levels: int,
    grid: TokenGrid,
    semantics: str | Semantics = "corrected",
    steps: int = 30_000,
    context_weight: float | Sequence[Ramp] = 0.5,
    include_base: bool = True,
    accumulation: int = 1,
    distance_weights: bool = True,
    **overrides: object,
) -> ObjectiveSet:
    """The loss of a named composition or primitive.

    width: channels C of one level. levels: L. steps: length of the run, which scales the context ramp and annealing.
    context_weight: its final value, or its schedule as ``RunConfig.context_ramps``.
    include_base: whether the prediction and context loss is part of it. accumulation: micro-batches of a step.
    distance_weights: of the context loss, as ``masking.context_distance_weights``.
    overrides: options by primitive, ``ld={"hidden": 128}``, or alone if only one primitive has the option,
    ``hidden=128``.

    Raises InputError for an unknown name or option.
    """
    choices = apply_overrides(name, overrides)
    resolved = Semantics.of(semantics) if isinstance(semantics, str) else semantics
    ctx = ObjectiveContext(
        width=width,
        levels=levels,
        grid=grid,
        semantics=resolved,
        steps=steps,
        other_objectives={},
        accumulation=accumulation,
    )
    return ObjectiveSet(choices, ctx, context_weight, include_base, distance_weights)


def apply_overrides(
    name: str | Sequence[ObjectiveChoice], overrides: Mapping[str, object]
) -> tuple[ObjectiveChoice, ...]:
    """Choices of a composition with some options replaced, and with the primitives that only ``overrides`` names.

    Raises InputError for an option that no primitive has, or more than one.
    """
    options = {
        choice.name: dict(choice.options) for choice in (resolve_choices(name) if isinstance(name, str) else name)
    }
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            options.setdefault(key, {}).update(value)
            continue
        owners = [part for part in options if key in primitives()[part].options_type.model_fields]
        if not owners:
            raise InputError(f"{key}: unknown option of {', '.join(options) or 'an empty list of objectives'}")
        if len(owners) > 1:
            raise InputError(f"{key}: an option of {' and '.join(owners)}; write {owners[0]}={{'{key}': ...}}")
        options[owners[0]][key] = value
    return tuple(ObjectiveChoice(name=part, options=chosen) for part, chosen in options.items())
