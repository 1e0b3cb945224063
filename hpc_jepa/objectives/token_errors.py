"""How far predictions are from their targets, token by token: computed once for all terms that weigh it."""

from torch import Tensor

from hpc_jepa.kernels.masked_error import masked_error
from hpc_jepa.types import Latents


def prediction_errors(latents: Latents) -> tuple[Tensor, ...]:
    """Per group [B, Q]: mean absolute error over the channels of each target token."""
    if "prediction errors" not in latents.cache:
        latents.cache["prediction errors"] = tuple(
            masked_error(prediction, latents.target, masks.target, latents.target_levels)
            for prediction, masks in zip(latents.prediction, latents.masks, strict=True)
        )
    return latents.cache["prediction errors"]


def context_errors(latents: Latents) -> tuple[Tensor, ...]:
    """Per group [B, K]: mean absolute error over the channels of each context token."""
    return tuple(
        masked_error(prediction, latents.target, masks.context, latents.target_levels)
        for prediction, masks in zip(latents.context_prediction, latents.masks, strict=True)
    )
