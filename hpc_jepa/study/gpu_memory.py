"""What a process of a run keeps in the memory of its GPU, estimated under its ZeRO stage."""

from dataclasses import dataclass

from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.study.sizes import ModelSize, model_size

GIB = 2**30
FP32 = 4

BLOCK_BYTES = 34
"""Bytes kept for the backward pass, for each token and unit of width of a block in 16 bits, without the attention
matrix, which fused attention does not keep (Korthikanti et al. 2022, arXiv 2205.05198, equation 1).
"""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each GPU. ``activations`` are an estimate, the rest is counted; libraries take about 1 GiB beside it."""

    parameters: float
    gradients: float
    optimizer: float
    ema: float
    activations: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.ema + self.activations


def memory_plan(config: RunConfig, processes: int) -> MemoryPlan:
    """Float32 weights, gradients, AdamW moments and EMA target; ZeRO divides by ``processes`` what its stage shards."""
    counted, stage = model_size(config), config.engine.zero_stage
    shared = [processes if stage >= least else 1 for least in (1, 2, 3)]
    copies = 3 if stage >= 1 else 2  # two moments; sharded stages step on a copy of their part of the weights
    return MemoryPlan(
        parameters=FP32 * counted.trainable / shared[2],
        gradients=FP32 * counted.trainable / shared[1],
        optimizer=copies * FP32 * counted.trainable / shared[0],
        ema=FP32 * counted.target / shared[2],
        activations=_activations(config, counted) * config.engine.batch_size / processes,
    )


def checkpoint_bytes(config: RunConfig) -> float:
    """One checkpoint on the disk: weights, target, two moments."""
    counted = model_size(config)
    return FP32 * (3 * counted.trainable + counted.target)


def _activations(config: RunConfig, counted: ModelSize) -> float:
    """Of one clip: blocks of student and predictor for every mask group, targets and predictions in float32."""
    encoder, predictor = config.model.encoder, config.model.predictor
    words = 2 if config.engine.precision == "fp32" else 1
    whole = config.model.activation_checkpointing
    blocks = sum(
        _of_blocks(encoder, seen, whole) + _of_blocks(predictor, counted.tokens, whole) for seen in counted.context
    )
    latents = FP32 * counted.tokens * encoder.latent_width * (1 + 2 * len(counted.context))
    return words * blocks + latents


def _of_blocks(network: EncoderConfig | PredictorConfig, tokens: float, checkpointed: bool) -> float:
    """With activation checkpointing the inputs of all blocks and the inside of one."""
    inside = BLOCK_BYTES * tokens * network.width
    return inside + 2 * network.depth * tokens * network.width if checkpointed else network.depth * inside
