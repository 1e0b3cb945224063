"""Temporal probes: attention or convolution over one vector per tubelet, [B, T, D]."""

from einops import rearrange
from torch import Tensor, nn

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.probes.attention_block import PostNormAttention, class_token, prepend_class_token
from hpc_jepa.evaluation.probes.probe_registry import ProbeShape, register_probe

LAYERS = 2
DROPOUT = 0.1
GROUPS = 4
NORM_GROUPS = 32


class ClassifierHead(nn.Sequential):
    """LayerNorm -> Linear -> GELU -> dropout -> Linear."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(width, classes)
        )


@register_probe("temporal_attention", "tubelets")
class TemporalAttention(nn.Module):
    """A class token and the tubelets through two layers of self-attention."""

    def __init__(self, shape: ProbeShape) -> None:
        super().__init__()
        self.token = class_token(shape.width)
        self.layers = nn.Sequential(*(PostNormAttention(shape.width, shape.heads) for _ in range(LAYERS)))
        self.head = ClassifierHead(shape.width, shape.classes)

    def forward(self, tubelets: Tensor) -> Tensor:
        """[B, T, D] -> logits [B, classes]."""
        logits: Tensor = self.head(self.layers(prepend_class_token(self.token, tubelets))[:, 0])
        return logits


@register_probe("temporal_convolution", "tubelets")
class TemporalConvolution(nn.Module):
    """Two grouped convolutions along time, then one layer of attention for the class token."""

    def __init__(self, shape: ProbeShape) -> None:
        """Raises InputError if the number of groups does not divide the width."""
        super().__init__()
        width = shape.width
        if width % NORM_GROUPS:
            raise InputError(
                f"temporal_convolution probe: the encoder's width {width} must be a multiple of {NORM_GROUPS}"
            )
        self.layers = nn.Sequential(*(layer for _ in range(LAYERS) for layer in _convolution(width)))
        self.token = class_token(width)
        self.attention = PostNormAttention(width, shape.heads)
        self.head = nn.Linear(width, shape.classes)

    def forward(self, tubelets: Tensor) -> Tensor:
        """[B, T, D] -> logits [B, classes]."""
        mixed = rearrange(self.layers(rearrange(tubelets, "b t d -> b d t")), "b d t -> b t d")
        logits: Tensor = self.head(self.attention(prepend_class_token(self.token, mixed))[:, 0])
        return logits


def _convolution(width: int) -> tuple[nn.Module, ...]:
    return nn.Conv1d(width, width, 3, padding=1, groups=GROUPS), nn.GroupNorm(NORM_GROUPS, width), nn.GELU()
