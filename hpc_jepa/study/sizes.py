"""Parameters, tokens and arithmetic of a run, counted from its configuration; nothing is built."""

from dataclasses import dataclass
from math import prod

from hpc_jepa.config.masking import MaskGroupConfig
from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.config.run import RunConfig

FORWARD_AND_BACKWARD = 3
"""Arithmetic of a forward pass and both halves of its backward pass, in forward passes."""


@dataclass(frozen=True)
class ModelSize:
    """Counts of one run. Heads of objectives, about one percent, are left out.

    ``student``, ``target`` and ``predictor`` are parameters; ``tokens`` those of a clip; ``context`` those that the
    student sees of it, for each mask group; ``flops`` of one step over all processes.
    """

    student: int
    target: int
    predictor: int
    tokens: int
    context: tuple[float, ...]
    flops: float

    @property
    def trainable(self) -> int:
        """Parameters with a gradient and optimizer state."""
        return self.student + self.predictor


def model_size(config: RunConfig) -> ModelSize:
    """Count."""
    encoder, clip = config.model.encoder, config.data.clip
    side = clip.size // encoder.patch
    tokens = clip.frames // encoder.tubelet * side**2
    context = tuple(tokens * _kept(group) for group in config.masking.groups)
    weights = _encoder(encoder)
    return ModelSize(
        student=weights,
        target=weights if config.targets == "ema" else 0,
        predictor=_predictor(config.model.predictor, encoder),
        tokens=tokens,
        context=context,
        flops=config.engine.batch_size * _flops_of_clip(config, tokens, context),
    )


def _kept(group: MaskGroupConfig) -> float:
    """Expected share of a clip that no block hides, with blocks placed independently of each other."""
    return group.temporal_keep * (1 - group.spatial_scale * group.temporal_scale) ** group.blocks


def _flops_of_clip(config: RunConfig, tokens: int, context: tuple[float, ...]) -> float:
    """Student and predictor forwards and backwards for every mask group, the target forwards."""
    encoder, predictor = config.model.encoder, config.model.predictor
    student = sum(_forward(encoder, n) for n in context)
    predicted = len(context) * _forward(predictor, tokens)
    again = student + predicted if config.model.activation_checkpointing else 0
    return FORWARD_AND_BACKWARD * (student + predicted) + again + _forward(encoder, tokens)


def _forward(network: EncoderConfig | PredictorConfig, tokens: float) -> float:
    """Multiplications and additions of all blocks: 2 per weight and token, and attention over all pairs."""
    per_block = 2 * tokens * _matrices(network) + 4 * tokens**2 * network.width
    return network.depth * per_block


def _matrices(network: EncoderConfig | PredictorConfig) -> float:
    """Weights of the four matrices of a block."""
    return (4 + 2 * network.mlp_ratio) * network.width**2


def _blocks(network: EncoderConfig | PredictorConfig) -> int:
    """Matrices, biases, and two layer norms of every block."""
    small = 4 + 1 + network.mlp_ratio + 4
    return int(network.depth * (_matrices(network) + small * network.width))


def _encoder(encoder: EncoderConfig) -> int:
    """Blocks, patch embeddings of clips and of images, a norm for every level, two modality vectors."""
    patches = [3 * prod((frames, encoder.patch, encoder.patch)) + 1 for frames in (encoder.tubelet, 1)]
    return _blocks(encoder) + encoder.width * (sum(patches) + 2 * len(encoder.levels) + 2)


def _predictor(predictor: PredictorConfig, encoder: EncoderConfig) -> int:
    """Blocks, two input and two output projections, a norm, mask tokens, two modality vectors."""
    latent, width = encoder.latent_width, predictor.width
    inputs = (latent + 1) * encoder.width + (encoder.width + 1) * width
    return _blocks(predictor) + inputs + 2 * (width + 1) * latent + (2 + predictor.mask_tokens + 2) * width
