"""Whole steps on a GPU: without a host sync, with the exact average, and alike if compiled."""

import pytest
import torch

from hpc_jepa.distributed import GlooGroup
from hpc_jepa.training.build import build_masker
from hpc_jepa.training.step_runner import StepRunner
from hpc_jepa.types import ClipBatch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
WARMUP, STEPS = 2, 3


def batch(config, device):
    clip, count = config.data.clip, config.engine.batch_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, 3, clip.frames, clip.size, clip.size, generator=generator).to(device)
    zeros = torch.zeros(count, dtype=torch.int64, device=device)
    return ClipBatch(pixels, zeros, zeros, zeros.bool())


def run_steps(config, device, inspect=lambda runner: None):
    """Steps without a host sync after two that may have one; ``inspect`` is called after each."""
    runner = StepRunner(config)
    assert runner.device.type == device
    clips = batch(config, runner.device)
    masker = build_masker(config, GlooGroup())
    masks = [masker(step, clips) for step in range(WARMUP + STEPS)]
    for step, groups in enumerate(masks):
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error" if step >= WARMUP else "default")
        try:
            runner.step(clips.pixels, groups, step)
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        inspect(runner)
    return runner


def with_engine(config, **changes):
    return config.model_copy(update={"engine": config.engine.model_copy(update=changes)})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_whole_step_has_no_host_sync_and_the_average_is_exact(configure, stage, precision, device):
    momentum, expected = 0.9, {}

    def average(runner):
        for name, student in runner.model.student.named_parameters():
            target = dict(runner.model.target.named_parameters())[name].detach().cpu()
            if name in expected:
                wanted = torch.lerp(expected[name], student.detach().cpu(), 1.0 - momentum)
                torch.testing.assert_close(target, wanted, rtol=1e-6, atol=1e-7)
            expected[name] = target.clone()

    config = configure(schedule={"steps": 12, "lr": 1e-3, "ema_start": momentum, "ema_final": momentum})
    run_steps(with_engine(config, zero_stage=stage, precision=precision), device, average)
    assert expected


@pytest.mark.gpu
def test_compiled_blocks_train_like_plain_ones(configure, compiler):
    config = configure()
    plain, compiled = (run_steps(with_engine(config, compile=flag), "cuda").model for flag in (False, True))
    for ours, theirs in zip(compiled.student.parameters(), plain.student.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)
