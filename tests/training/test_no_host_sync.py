"""A training step contains no operation that makes the host wait for the device."""

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
from hpc_jepa.training.divergence import sample_target, target_health
from hpc_jepa.training.ema import TargetEMA
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
    "_linalg_eigh",
}


class NoHostSync(TorchDispatchMode):
    """Fails on every operation whose result the host must wait for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indexes = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) and "index" in name else ()
        boolean = any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indexes if i is not None)
        assert name not in HOST_SYNC_OPERATORS and not boolean, f"{name}: host sync"
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
def test_a_step_has_no_host_sync(semantics):
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
        target_health(sample_target(target, levels=2, tokens=64))
    assert torch.isfinite(loss)


def test_a_host_sync_is_detected():
    x = torch.randn(3)
    for sync in (
        lambda: x.sum().item(),
        lambda: x[x > 0],
        lambda: bool((x > 0).any()),
        lambda: torch.linalg.eigvalsh(x.outer(x)),
    ):
        with pytest.raises(AssertionError, match="host sync"), NoHostSync():
            sync()


def test_the_loop_is_short_and_names_no_objective():
    source = Path(inspect.getfile(loop)).read_text()
    assert len(source.splitlines()) <= 150
    words = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    words |= {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    assert not words & set(primitives())
