"""Two sound steps, one in which rank 1 meets a number that is none, and one sound step; at every ZeRO stage.

The number is in the loss, in the gradient of all weights, or in that of one weight that the guard's witness cannot see.

usage: broken_steps.py OUTPUT
"""

import sys
from itertools import product

import torch
from torch import nn

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import is_main, rank
from hpc_jepa.training.checkpoint_state import unsharded
from hpc_jepa.training.engine import build_engine, optimizer_step
from hpc_jepa.training.launch import join_process_group
from hpc_jepa.training.nonfinite import NonFiniteGuard
from hpc_jepa.training.zero_state import optimizer_updates

BROKEN = 2


class Poison(torch.autograd.Function):
    """The identity, with a gradient that is no number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


class Two(nn.Module):
    """A witness behind a layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 2)

    def forward(self, x, poisoned):
        hidden = self.second(self.first(x))
        return (Poison.apply(hidden) if poisoned else hidden).square().mean()


def config_at(stage):
    return RunConfig.model_validate(
        {
            "regime": "test",
            "data": {"sources": {"none": {"shards": "none"}}},
            "schedule": {"lr": 1e-2},
            "engine": {"zero_stage": stage, "precision": "fp32", "batch_size": 4},
        }
    )


def train_at(stage, what):
    torch.manual_seed(0)
    model = Two()
    guard = NonFiniteGuard(model.first.bias, torch.device("cpu"))
    engine = build_engine(model, config_at(stage))
    result, before = {}, None
    for step in range(4):
        x = torch.randn(2, 4)
        nonfinite = step == BROKEN and rank() == 1
        loss = engine(x, nonfinite and what == "gradient")
        unseen = (
            model.second.weight.register_hook(lambda g: g * float("nan")) if nonfinite and what == "unseen" else None
        )
        if nonfinite and what == "loss":
            loss = loss + float("inf")  # its gradient is as it was
        engine.backward(loss)
        if unseen is not None:
            unseen.remove()
        skip = guard.nonfinite(loss)
        norm = optimizer_step(engine, skip)
        guard.count(skip | ~norm.isfinite())
        after = dict(unsharded(engine.module))
        same = before is not None and all(torch.equal(before[name], after[name]) for name in after)
        if step == BROKEN:
            result["weights_after_broken"] = "unchanged" if same else "changed"
            result["counts"] = guard.take().tolist()
        before = after
    result["weights_after_next"] = "unchanged" if same else "changed"
    result["updates"] = optimizer_updates(engine).item()
    result["counts_after"] = guard.take().tolist()
    return result


if __name__ == "__main__":
    join_process_group()
    cases = product((0, 1, 2, 3), ("loss", "gradient", "unseen"))
    results = {(stage, what): train_at(stage, what) for stage, what in cases}
    if is_main():
        torch.save(results, sys.argv[1])
