"""Every variant trains with ``engine.deterministic``."""

import pytest
import torch
from objective_steps import STEP, VARIANTS, configure, make_clips, make_masker
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_jepa.config.training import EngineConfig
from hpc_jepa.masking.motion_guidance import guided_origins
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.profiling.fake_cuda import fake_cuda
from hpc_jepa.training.numerics import numerics
from hpc_jepa.training.train_module import build_train_module

REFUSED_ON_CUDA = {
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "_embedding_bag",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "bincount",
    "cumsum",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "histc",
    "kthvalue",
    "max_pool3d_with_indices_backward",
    "max_unpool2d",
    "median",
    "nll_loss2d_forward",
    "put_",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "replication_pad1d_backward",
    "replication_pad2d_backward",
    "replication_pad3d_backward",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
    "upsample_trilinear3d_backward",
}
"""Operators without a deterministic form on CUDA (documentation of ``torch.use_deterministic_algorithms``)."""


class NoneRefused(TorchDispatchMode):
    """Fails on operators that PyTorch would refuse on a GPU under ``engine.deterministic``; cumsum, of floats only."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name != "cumsum" or args[0].is_floating_point():
            assert name not in REFUSED_ON_CUDA, f"{name}: no deterministic form on CUDA"
        return function(*args, **(kwargs or {}))


def test_every_variant_trains_with_deterministic_algorithms():
    for variant in VARIANTS:
        config = configure(variant)
        train_module, clips = build_train_module(config), make_clips(config)
        with numerics(EngineConfig(deterministic=True)):
            masks = make_masker(config)(STEP, clips)
            with NoneRefused():
                terms, _ = train_module(clips.pixels, masks, STEP)
                loss = weighted_sum(terms, train_module.objectives.weights(STEP))
                loss.backward()
        assert torch.isfinite(loss)


def test_guided_masks_on_a_gpu_are_deterministic_and_have_the_same_running_sums():
    scores = torch.rand(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with numerics(EngineConfig(deterministic=True)), fake_cuda(), NoneRefused():
        draws = torch.empty(2, 5, dtype=torch.float64, device="cuda")
        origins = guided_origins(draws, torch.empty(2, 4, 6, 6, device="cuda"), (2, 3, 3), strength=1.0)
    assert origins.shape == (2, 5)
    torch.testing.assert_close(scores @ torch.ones(40, 40, dtype=torch.float64).triu(), scores.cumsum(1))


def test_an_operator_without_deterministic_form_is_found():
    with pytest.raises(AssertionError, match="cumsum"), NoneRefused():
        torch.rand(3).cumsum(0)
