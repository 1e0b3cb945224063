"""On a GPU, where the host can wait for the device: no objective makes it."""

import pytest
import torch

from hpc_jepa.config.loading import CONFIGS, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.types import ClipBatch, TokenGrid

VARIANTS = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="waiting for a device needs a CUDA device")
@pytest.mark.parametrize("semantics", ["published", "corrected"])
def test_no_variant_waits_for_the_device_in_a_step(semantics):
    for variant in VARIANTS:
        files = [CONFIGS / "regime" / "ucf101.yaml", CONFIGS / "objective" / f"{variant}.yaml"]
        small = "model.encoder={width: 128, depth: 4, heads: 2, patch: 8, levels: [1, 2, 3, 4]}"
        config = read_config(
            RunConfig, files, [f"semantics={semantics}", small, "data.clip={frames: 8, stride: 1, size: 64}"]
        )
        one_step(config, waiting="default")  # what is made once may wait
        one_step(config, waiting="error")


def one_step(config, waiting):
    """Forward and backward; the device refuses to be waited for where ``waiting`` is an error."""
    train_module = build_train_module(config).cuda()
    nothing = torch.zeros(4, dtype=torch.int64, device="cuda")
    clips = ClipBatch(torch.randn(4, 3, 8, 64, 64, device="cuda"), nothing, nothing, nothing.bool())
    masks = MaskSampler(config.masking, config.semantics, TokenGrid(4, 8, 8), seed=0, batch_size=4)(0, clips)
    torch.cuda.set_sync_debug_mode(waiting)
    try:
        terms, _ = train_module(clips.pixels, masks, 0)
        weighted_sum(terms, train_module.objectives.weights(0)).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
