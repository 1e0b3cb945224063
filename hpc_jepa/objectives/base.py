"""The Video-JEPA loss: predict masked tokens and, with a weight that rises over the run, context tokens."""

import torch
from torch import Tensor

from hpc_jepa.config.strict import Strict
from hpc_jepa.objectives.objective import Objective, ObjectiveContext
from hpc_jepa.objectives.token_errors import context_errors, prediction_errors
from hpc_jepa.types import Latents

PUBLISHED_RAMP = (15_000, 30_000)
CORRECTED_RAMP = (0.5, 1.0)


class BaseOptions(Strict):
    """Set by the schedule of the run, not in the list of objectives."""

    context_weight: float = 0.5


class Base(Objective[BaseOptions]):
    r"""``L = L_pred + λ(step) L_ctx`` (V-JEPA 2, arXiv 2506.09985, with dense context prediction).

    L_pred = mean over groups of mean |P - Y[q]|;  L_ctx = mean over groups of mean |R - Y[c]| / δ, where δ is the
    square root of the grid distance from a context token to the nearest target token.
    """

    name = "base"
    title = "Prediction and context loss"
    families = ""
    options_type = BaseOptions

    def __init__(self, options: BaseOptions, ctx: ObjectiveContext) -> None:
        super().__init__(options, ctx)
        if ctx.semantics.context_ramp == "iterations":
            self._ramp: tuple[float, float] = PUBLISHED_RAMP
        else:
            self._ramp = (CORRECTED_RAMP[0] * ctx.steps, CORRECTED_RAMP[1] * ctx.steps)

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Terms ``prediction`` and ``context``."""
        prediction = [error.mean() for error in prediction_errors(latents)]
        context = [
            (error / masks.context_distance).mean()
            for error, masks in zip(context_errors(latents), latents.masks, strict=True)
        ]
        return {"prediction": torch.stack(prediction).mean(), "context": torch.stack(context).mean()}

    def weights(self, step: int) -> dict[str, float]:
        """1 for the prediction; the context weight rises linearly over the ramp."""
        start, end = self._ramp
        progress = min(max((step - start) / (end - start), 0.0), 1.0) if end > start else 1.0
        return {"prediction": 1.0, "context": self.options.context_weight * progress}
