"""Whether a released file fits a configuration, and the loss of one masked pass with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hpc_jepa.checkpoint.released_file import ReleasedFile, take_parts
from hpc_jepa.config.init import Part
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import GlooGroup
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.training.build import build_masker
from hpc_jepa.training.start import weight_shapes
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.training.zero_state import checkpoint_name
from hpc_jepa.types import ClipBatch

CLIPS = 2
"""Random clips of the pass."""


@dataclass(frozen=True)
class ForwardLoss:
    """Loss of one pass with the weights of the terms at the end of the schedules, and the terms without weights."""

    loss: float
    terms: dict[str, float]


def check_parts(file: ReleasedFile, config: RunConfig, parts: Sequence[Part]) -> dict[str, torch.Tensor]:
    """The tensors of the parts by our names. Raises CheckpointError naming all that differ from ``config``."""
    with torch.device("meta"):
        module = build_train_module(config)
    return take_parts(file, parts, weight_shapes(module))


@torch.no_grad()
def forward_loss(config: RunConfig, tensors: dict[str, torch.Tensor]) -> ForwardLoss:
    """The loss of one masked pass over random clips with the tensors of a file, others as the seed initialises them."""
    engine = config.engine.model_copy(update={"batch_size": CLIPS})
    config = config.model_copy(update={"engine": engine})
    module = build_train_module(config)
    for name, parameter in module.named_parameters():
        parameter.copy_(tensors.get(checkpoint_name(name), parameter))
    for network, other in (("student", "target"), ("target", "student")):
        if not any(name.startswith(f"{network}.") for name in tensors):
            getattr(module.model, network).load_state_dict(getattr(module.model, other).state_dict())
    clip, draws = config.data.clip, torch.Generator().manual_seed(config.seed)
    pixels = torch.randn(CLIPS, 3, clip.frames, clip.size, clip.size, generator=draws)
    zeros = torch.zeros(CLIPS, dtype=torch.int64)
    masks = build_masker(config, GlooGroup())(0, ClipBatch(pixels, zeros, zeros, zeros.bool()))
    last = config.schedule.steps
    terms, _ = module(pixels, masks, last)
    loss = weighted_sum(terms, module.objectives.weights(last))
    return ForwardLoss(float(loss), {name: float(term) for name, term in terms.items()})
