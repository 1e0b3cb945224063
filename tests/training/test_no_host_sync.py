"""What a training step does not do."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_jepa.config.run import RunConfig
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.objectives.registry import primitives
from hpc_jepa.training import loop
from hpc_jepa.training.ema import TargetEMA
from hpc_jepa.training.health import target_health
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.types import ClipBatch, TokenGrid

HOST_SYNC_OPERATORS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "item",
    "unique_consecutive",
}


class NoHostSync(TorchDispatchMode):
    """Refuses every operation whose result the host must wait for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indexes = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) and "index" in name else ()
        boolean = any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indexes if i is not None)
        assert name not in HOST_SYNC_OPERATORS and not boolean, f"{name} asks the device a question"
        return function(*args, **(kwargs or {}))


def run_config(semantics):
    return RunConfig.model_validate(
        {
            "regime": "test",
            "model": {
                "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                "predictor": {"width": 16, "depth": 1, "heads": 2},
            },
            "data": {"sources": {"none": {"shards": "none"}}, "clip": {"frames": 8, "size": 32}},
            "objectives": [name for name in primitives() if name != "base"],
            "semantics": semantics,
            "engine": {"batch_size": 4, "precision": "bf16"},
        }
    )


@pytest.mark.parametrize("semantics", ["published", "corrected"])
def test_no_operation_of_a_step_asks_the_device_a_question(semantics):
    config = run_config(semantics)
    train_module = build_train_module(config)
    ema = TargetEMA(train_module.model.student, train_module.model.target)
    masker = MaskSampler(config.masking, config.semantics, TokenGrid(4, 4, 4), seed=0, batch_size=4)
    nothing = torch.zeros(4, dtype=torch.int64)
    clips = ClipBatch(torch.randn(4, 3, 8, 32, 32), nothing, nothing, nothing.bool())
    masks = masker(0, clips)
    train_module(clips.pixels, masks, 0)  # tables that are made once
    with NoHostSync():
        terms, target = train_module(clips.pixels, masks, 0)
        loss = weighted_sum(terms, train_module.objectives.weights(0))
        loss.backward()
        ema.update(0.99)
        target_health(target, levels=2, tokens=64)
    assert torch.isfinite(loss)


def test_the_silence_would_notice():
    x = torch.randn(3)
    for question in (lambda: x.sum().item(), lambda: x[x > 0], lambda: bool((x > 0).any())):
        with pytest.raises(AssertionError, match="asks the device"), NoHostSync():
            question()


def test_the_loop_is_short_and_names_no_objective():
    source = Path(inspect.getfile(loop)).read_text()
    assert len(source.splitlines()) <= 150
    words = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    words |= {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    assert not words & set(primitives())


def test_effective_rank_counts_the_directions_of_the_target():
    directions = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0][:5]
    coordinates = torch.eye(5).repeat(40, 1) * 3
    target = (coordinates @ directions)[None]
    measured = target_health(target - target.mean(1, keepdim=True), levels=1, tokens=1000)
    # Centring the five unit vectors leaves four directions of equal weight.
    assert measured.effective_rank.item() == pytest.approx(4.0, abs=1e-4)
    collapsed = target_health(torch.ones(2, 50, 16), levels=1, tokens=100)
    assert collapsed.target_std.item() == 0.0
