"""Space-time attention probe: attention along time at every patch, then over the patches."""

from einops import rearrange
from torch import Tensor, nn

from hpc_jepa.evaluation.probes.attention_block import PostNormAttention, class_token, prepend_class_token
from hpc_jepa.evaluation.probes.probe_registry import ProbeShape, register_probe
from hpc_jepa.evaluation.probes.temporal import ClassifierHead


@register_probe("space_time_attention", "tokens")
class SpaceTimeAttention(nn.Module):
    """Tubelets of one patch attend to each other and are averaged; a class token attends to the averages."""

    def __init__(self, shape: ProbeShape) -> None:
        super().__init__()
        self.tubelets = shape.tubelets
        self.time = PostNormAttention(shape.width, shape.heads)
        self.token = class_token(shape.width)
        self.space = PostNormAttention(shape.width, shape.heads)
        self.head = ClassifierHead(shape.width, shape.classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T * H * W, D] -> logits [B, classes]."""
        columns = rearrange(tokens, "b (t p) d -> (b p) t d", t=self.tubelets)
        patches = rearrange(self.time(columns).mean(dim=1), "(b p) d -> b p d", b=len(tokens))
        logits: Tensor = self.head(self.space(prepend_class_token(self.token, patches))[:, 0])
        return logits
