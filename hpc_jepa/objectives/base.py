"""The Video-JEPA loss: predict masked tokens and, with a weight that rises over the run, context tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hpc_jepa.config.phases import Ramp, named_ramp, value_at
from hpc_jepa.config.strict import Strict
from hpc_jepa.objectives.objective import Objective, ObjectiveContext
from hpc_jepa.objectives.pooling import context_mean, target_mean
from hpc_jepa.objectives.token_errors import context_errors, prediction_errors
from hpc_jepa.types import Latents


class BaseOptions(Strict):
    """Set by the schedule of the run, not in the list of objectives."""

    context_weight: float = 0.5
    distance_weights: bool = True


class Base(Objective[BaseOptions]):
    r"""``L = L_pred + λ(step) L_ctx`` (V-JEPA 2, arXiv 2506.09985, with dense context prediction).

    L_pred = mean over groups of mean |P - Y[q]|;  L_ctx = mean over groups of mean |R - Y[c]| / δ, where δ is the
    square root of the grid distance from a context token to the nearest target token, or 1 without distance weights.
    """

    name = "base"
    title = "Prediction and context loss"
    families = ""
    options_type = BaseOptions
    handles_padding = True

    def __init__(self, options: BaseOptions, ctx: ObjectiveContext, ramps: Sequence[Ramp] = ()) -> None:
        """ramps: schedule of the context weight, by default the ramp that the semantics name."""
        super().__init__(options, ctx)
        self._ramps = tuple(ramps) or named_ramp(ctx.semantics.ramp_name, options.context_weight, ctx.steps)

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Terms ``prediction`` and ``context``."""
        prediction = [
            target_mean(error, masks) for error, masks in zip(prediction_errors(latents), latents.masks, strict=True)
        ]
        context = [
            context_mean(error / masks.context_distance if self.options.distance_weights else error, masks)
            for error, masks in zip(context_errors(latents), latents.masks, strict=True)
        ]
        return {"prediction": torch.stack(prediction).mean(), "context": torch.stack(context).mean()}

    def weights(self, step: int) -> dict[str, float]:
        """1 for the prediction; the context weight follows its schedule."""
        return {"prediction": 1.0, "context": value_at(self._ramps, step)}
