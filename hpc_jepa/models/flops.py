"""Arithmetic of a training step, counted from shapes: what model FLOP utilisation (MFU) is a share of."""

from collections.abc import Sequence

from hpc_jepa.config.model import EncoderConfig, ModelConfig, PredictorConfig
from hpc_jepa.types import TokenMasks

FORWARD_AND_BACKWARD = 3
"""A matrix product has two gradients, each as large as itself."""


def step_flops(config: ModelConfig, pixels: Sequence[int], masks: Sequence[TokenMasks]) -> int:
    """Floating-point operations of the matrix products of one step of clips of shape ``pixels`` (B, C, F, Hp, Wp).

    A forward pass of the target over all tokens; per mask group forward and backward passes of the student over the
    context and of the predictor over context and target tokens. What activation checkpointing computes again is not
    counted (Chowdhery et al. 2022, appendix B). The objectives are left out: they are small beside this.
    """
    clips, _, frames, height, width = pixels
    patch = config.encoder.patch
    tokens = max(1, frames // config.encoder.tubelet) * (height // patch) * (width // patch)
    flops = encoder_flops(config.encoder, tokens)
    for group in masks:
        context, target = group.context.shape[1], group.target.shape[1]
        flops += FORWARD_AND_BACKWARD * encoder_flops(config.encoder, context)
        flops -= _patch_embedding(config.encoder, context)  # pixels need no gradient
        flops += FORWARD_AND_BACKWARD * predictor_flops(config, context, target)
    return clips * flops


def encoder_flops(config: EncoderConfig, tokens: int) -> int:
    """One forward pass over ``tokens`` tokens of one clip."""
    return _patch_embedding(config, tokens) + _blocks(config, tokens)


def predictor_flops(config: ModelConfig, context: int, target: int) -> int:
    """One forward pass over the tokens of one clip."""
    encoder, predictor = config.encoder, config.predictor
    latent = encoder.latent_width
    projection = _linear(context, latent, encoder.width) + _linear(context, encoder.width, predictor.width)
    return projection + _blocks(predictor, context + target) + _linear(context + target, predictor.width, latent)


def _patch_embedding(config: EncoderConfig, tokens: int) -> int:
    return _linear(tokens, 3 * config.tubelet * config.patch**2, config.width)


def _blocks(config: EncoderConfig | PredictorConfig, tokens: int) -> int:
    """Projections, attention (scores and their sums of values) and MLP of all blocks."""
    width = config.width
    hidden = round(width * config.mlp_ratio)
    projections = _linear(tokens, width, 4 * width)
    attention = 2 * _linear(tokens, width, tokens)
    return config.depth * (projections + attention + 2 * _linear(tokens, width, hidden))


def _linear(rows: int, inputs: int, outputs: int) -> int:
    """A multiplication and an addition for each entry of the matrix and each row."""
    return 2 * rows * inputs * outputs
