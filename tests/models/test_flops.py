import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hpc_jepa.config.model import EncoderConfig, ModelConfig, PredictorConfig
from hpc_jepa.models.flops import clip_flops, step_flops
from hpc_jepa.models.video_jepa import VideoJEPA
from hpc_jepa.types import TokenMasks


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_equal_those_counted_by_torch(checkpointing):
    """PyTorch counts every matrix product as it runs; attention in its math form is two of them."""
    config = ModelConfig(
        encoder=EncoderConfig(width=32, depth=3, heads=2, patch=8, levels=(1, 3), mlp_ratio=3.0),
        predictor=PredictorConfig(width=16, depth=2, heads=2),
        activation_checkpointing=checkpointing,
    )
    order = torch.arange(36).expand(2, -1)
    masks = tuple(
        TokenMasks(order[:, :k], order[:, k : k + q], torch.ones(2, k), torch.full((2, k), -1))
        for k, q in ((7, 29), (5, 20))
    )
    model = VideoJEPA(config, "bf16").train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        latents = model(torch.randn(2, 3, 8, 24, 24), masks)
        outputs = (*latents.student, *latents.prediction, *latents.context_prediction)
        sum(output.float().sum() for output in outputs).backward()
    counted = step_flops(config, (2, 3, 8, 24, 24), masks)
    recomputed = 2 * clip_flops(config, 36, [(7, 29), (5, 20)], recompute=True)
    assert counted == step_flops(
        config.model_copy(update={"activation_checkpointing": False}), (2, 3, 8, 24, 24), masks
    )
    assert counter.get_total_flops() == (recomputed if checkpointing else counted)
