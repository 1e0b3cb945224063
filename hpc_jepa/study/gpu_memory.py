"""Estimate the GPU memory of one training process under its ZeRO stage, and the size of a checkpoint."""

from dataclasses import dataclass

from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.sizes import ModelSize, model_size

GIB = 2**30
FP32 = 4

BLOCK_BYTES = 34
"""Activation bytes of a 16-bit block per token and unit of width, without the attention matrix, which fused attention
does not store (Korthikanti et al. 2022, arXiv 2205.05198, equation 1).
"""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each GPU. ``activations`` are estimated, the rest is exact; CUDA and libraries take about 1 GiB more."""

    parameters: float
    gradients: float
    optimizer: float
    ema: float
    activations: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.parameters + self.gradients + self.optimizer + self.ema + self.activations


def memory_plan(config: RunConfig, processes: int) -> MemoryPlan:
    """Float32 weights, gradients, AdamW moments and EMA target. Sharded parts are divided by ``processes``."""
    size, stage = model_size(config), config.engine.zero_stage
    shards = [processes if stage >= least else 1 for least in (1, 2, 3)]
    copies = 3 if stage >= 1 else 2  # two moments, and from stage 1 on a copy of the weight shard
    return MemoryPlan(
        parameters=FP32 * size.trainable / shards[2],
        gradients=FP32 * size.trainable / shards[1],
        optimizer=copies * FP32 * size.trainable / shards[0],
        ema=FP32 * size.target / shards[2],
        activations=_activations(config, size) * config.engine.batch_size / (processes * config.engine.accumulation),
    )


def poolers_bytes(cell: StudyCell) -> dict[str, float]:
    """Bytes of the probes of several blocks on each GPU of an evaluation, by benchmark, protocol and probe.

    The encoder and the activations of one probe come in addition.
    """
    width, found = cell.config.model.encoder.width, {}
    for evaluation in cell.evaluations:
        if evaluation.task != "probe":  # other tasks train no poolers
            continue
        protocol = evaluation.benchmark.protocols[evaluation.protocol]
        for name, probe in protocol.poolers.items():
            size = probe.memory(width, evaluation.benchmark.classes, len(protocol.probe_seeds))
            found[f"{evaluation.benchmark.name}, {evaluation.protocol}, {name} probe"] = size
    return found


def checkpoint_bytes(config: RunConfig) -> float:
    """Size of one checkpoint on disk: weights, EMA target, two moments."""
    size = model_size(config)
    return FP32 * (3 * size.trainable + size.target)


def _activations(config: RunConfig, size: ModelSize) -> float:
    """Bytes per clip: student and predictor blocks for every mask group, targets and predictions in float32."""
    encoder, predictor = config.model.encoder, config.model.predictor
    scale = 2 if config.engine.precision == "fp32" else 1
    checkpointed = config.model.activation_checkpointing
    blocks = sum(
        _block_bytes(encoder, context, checkpointed) + _block_bytes(predictor, size.tokens, checkpointed)
        for context in size.context
    )
    latents = FP32 * size.tokens * encoder.latent_width * (1 + 2 * len(size.context))
    return scale * blocks + latents


def _block_bytes(network: EncoderConfig | PredictorConfig, tokens: float, checkpointed: bool) -> float:
    """Activations of all blocks; with activation checkpointing, the inputs of all blocks and the activations of one."""
    one_block = BLOCK_BYTES * tokens * network.width
    return one_block + 2 * network.depth * tokens * network.width if checkpointed else network.depth * one_block
