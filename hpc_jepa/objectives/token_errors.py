"""Prediction error per token, computed once for all terms that use it."""

from torch import Tensor

from hpc_jepa.kernels.masked_error import masked_error
from hpc_jepa.types import Latents


def prediction_errors(latents: Latents) -> tuple[Tensor, ...]:
    """Mean absolute error over the channels of each target token; per mask group [B, Q]."""
    return latents.cached(_prediction_errors)


def context_errors(latents: Latents) -> tuple[Tensor, ...]:
    """Mean absolute error over the channels of each context token; per mask group [B, K]."""
    return tuple(
        masked_error(prediction, latents.target, masks.context, latents.target_levels)
        for prediction, masks in zip(latents.context_prediction, latents.masks, strict=True)
    )


def _prediction_errors(latents: Latents) -> tuple[Tensor, ...]:
    return tuple(
        masked_error(prediction, latents.target, masks.target, latents.target_levels)
        for prediction, masks in zip(latents.prediction, latents.masks, strict=True)
    )
