"""Parameters, tokens and FLOPs of a run, from its configuration; no memory is allocated."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from hpc_jepa.config.masking import MaskGroupConfig
from hpc_jepa.config.model import ModelConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.flops import clip_flops
from hpc_jepa.models.predictor import Predictor

FORWARD_KERNELS, BACKWARD_KERNELS = 19, 32
"""Kernels of a step in eager mode, per block that runs: 606 in the forward pass of ViT-B, which runs 32 blocks
(student, target, predictor), and 644 in the backward pass of 20 (docs/performance.md: ``bench_step.py --count``).
"""


@dataclass(frozen=True)
class ModelSize:
    """Sizes of one run, without the heads of objectives (about one percent).

    ``student``, ``target`` and ``predictor`` are numbers of parameters; ``tokens`` those of a clip; ``context`` the
    expected number that the student encodes, by mask group; ``flops`` those of one step over all processes, including
    operations that activation checkpointing repeats. ``kernels``: those that each process launches in one step,
    whatever its number of clips.
    """

    student: int
    target: int
    predictor: int
    tokens: int
    context: tuple[float, ...]
    flops: float
    kernels: int

    @property
    def trainable(self) -> int:
        """Parameters with a gradient and optimizer state."""
        return self.student + self.predictor


def model_size(config: RunConfig) -> ModelSize:
    """Sizes of a run of ``config``."""
    tokens = config.grid.tokens
    context = tuple(tokens * _visible_share(group) for group in config.masking.groups)
    groups = [(visible, tokens - visible) for visible in context]
    student, predictor = _parameters(config.model)
    return ModelSize(
        student=student,
        target=student if config.targets == "ema" else 0,
        predictor=predictor,
        tokens=tokens,
        context=context,
        flops=config.engine.batch_size
        * clip_flops(config.model, tokens, groups, recompute=config.model.activation_checkpointing),
        kernels=_kernels(config.model),
    )


def _kernels(config: ModelConfig) -> int:
    """Student and predictor run forward and backward, all mask groups in one pass; the target runs forward."""
    trained = config.encoder.depth + config.predictor.depth
    forward = trained * (2 if config.activation_checkpointing else 1) + config.encoder.depth
    return FORWARD_KERNELS * forward + BACKWARD_KERNELS * trained


@cache
def _parameters(config: ModelConfig) -> tuple[int, int]:
    """Parameters of encoder and predictor, frozen ones included."""
    with torch.device("meta"):
        networks: tuple[nn.Module, ...] = (Encoder(config.encoder), Predictor(config.predictor, config.encoder))
    student, predictor = (sum(parameter.numel() for parameter in network.parameters()) for network in networks)
    return student, predictor


def _visible_share(group: MaskGroupConfig) -> float:
    """Expected share of a clip that no block masks, if blocks are placed independently."""
    return group.temporal_keep * (1 - group.spatial_scale * group.temporal_scale) ** group.blocks
