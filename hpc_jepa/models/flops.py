"""FLOPs of a training step, counted from shapes: the numerator of model FLOP utilisation (MFU)."""

from collections.abc import Sequence

from hpc_jepa.config.model import EncoderConfig, ModelConfig, PredictorConfig
from hpc_jepa.types import TokenMasks

FORWARD_AND_BACKWARD = 3
"""A matrix product has two gradients, each as expensive as the product."""


def step_flops(config: ModelConfig, pixels: Sequence[int], masks: Sequence[TokenMasks]) -> int:
    """FLOPs of one step with clips of shape ``pixels`` (B, C, F, Hp, Wp), as MFU counts them.

    Operations that activation checkpointing repeats do not count (Chowdhery et al. 2022, appendix B).
    """
    clips, _, frames, height, width = pixels
    patch = config.encoder.patch
    tokens = max(1, frames // config.encoder.tubelet) * (height // patch) * (width // patch)
    groups = [(group.context.shape[1], group.target.shape[1]) for group in masks]
    return round(clips * clip_flops(config, tokens, groups))


def clip_flops(
    config: ModelConfig, tokens: int, groups: Sequence[tuple[float, float]], recompute: bool = False
) -> float:
    """FLOPs of the matrix products of one clip with numbers of context and target tokens of each mask group.

    A forward pass of the target encoder over all tokens; per group forward and backward passes of the student over the
    context and of the predictor over context and target tokens. ``recompute`` adds what activation
    checkpointing repeats. The objectives are negligible and left out.
    """
    encoder, predictor = config.encoder, config.predictor
    flops = _patch_embedding(encoder, tokens) + _blocks(encoder, tokens)
    for context, target in groups:
        flops += (FORWARD_AND_BACKWARD - 1) * _patch_embedding(encoder, context)  # pixels need no gradient
        flops += FORWARD_AND_BACKWARD * (_blocks(encoder, context) + _predictor(encoder, predictor, context, target))
        if recompute:
            flops += _recomputed(encoder, context) + _recomputed(predictor, context + target)
    return flops


def _predictor(encoder: EncoderConfig, predictor: PredictorConfig, context: float, target: float) -> float:
    """Forward pass over the context and target tokens of one clip."""
    latent = encoder.latent_width
    if predictor.embed == "linear":
        projection = _linear(context, latent, predictor.width)
    else:
        projection = _linear(context, latent, encoder.width) + _linear(context, encoder.width, predictor.width)
    return projection + _blocks(predictor, context + target) + _linear(context + target, predictor.width, latent)


def _patch_embedding(config: EncoderConfig, tokens: float) -> float:
    return _linear(tokens, 3 * config.tubelet * config.patch**2, config.width)


def _blocks(config: EncoderConfig | PredictorConfig, tokens: float) -> float:
    """Forward pass of all blocks: projections, attention (scores and weighted sums of values) and MLP."""
    width = config.width
    projections = _linear(tokens, width, 4 * width)
    attention = 2 * _linear(tokens, width, tokens)
    return config.depth * (projections + attention + 2 * _fc(config, tokens))


def _recomputed(config: EncoderConfig | PredictorConfig, tokens: float) -> float:
    """Second forward pass of all blocks without their last layer, whose output the backward pass does not need."""
    return _blocks(config, tokens) - config.depth * _fc(config, tokens)


def _fc(config: EncoderConfig | PredictorConfig, tokens: float) -> float:
    """Either layer of an MLP."""
    return _linear(tokens, config.width, round(config.width * config.mlp_ratio))


def _linear(rows: float, inputs: float, outputs: float) -> float:
    """One multiplication and one addition per row and matrix element."""
    return 2 * rows * inputs * outputs
