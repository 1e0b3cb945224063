"""No objective causes a host-device sync."""

import pytest
import torch
from objective_steps import VARIANTS, configure, make_clips, make_masker

from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.training.train_module import build_train_module

SMALL = ("model.encoder={width: 128, depth: 4, heads: 2, patch: 8, levels: [1, 2, 3, 4]}", "data.clip.size=64")


@pytest.mark.gpu
@pytest.mark.parametrize("semantics", ["published", "corrected"])
def test_no_variant_causes_a_host_sync(semantics):
    for variant in VARIANTS:
        config = configure(variant, semantics, *SMALL)
        one_step(config, sync_debug_mode="default")  # one-time work may sync
        one_step(config, sync_debug_mode="error")


def one_step(config, sync_debug_mode):
    """Forward and backward pass; PyTorch raises on a host sync if the mode is "error"."""
    train_module = build_train_module(config).cuda()
    clips = make_clips(config, pixels=torch.randn(4, 3, 8, 64, 64, device="cuda"))
    masks = make_masker(config)(0, clips)
    torch.cuda.set_sync_debug_mode(sync_debug_mode)
    try:
        terms, _ = train_module(clips.pixels, masks, 0)
        weighted_sum(terms, train_module.objectives.weights(0)).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
