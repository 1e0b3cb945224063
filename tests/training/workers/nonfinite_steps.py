"""Four steps at every ZeRO stage; in the third one rank 1 has a non-finite value.

It is in the loss, in the gradient of all weights, or in that of one weight that the guard's canary cannot see.

usage: nonfinite_steps.py OUTPUT
"""

import sys
from itertools import product

import torch
from gathered import full_parameters
from torch import nn

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import is_main, rank
from hpc_jepa.training.engine import build_engine, optimizer_step
from hpc_jepa.training.launch import join_process_group
from hpc_jepa.training.nonfinite import NonFiniteGuard
from hpc_jepa.training.zero_state import optimizer_updates

NONFINITE_STEP = 2


class Poison(torch.autograd.Function):
    """The identity, with a NaN gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


class TwoLayers(nn.Module):
    """The bias of the first layer is the canary."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 2)

    def forward(self, x, poisoned):
        hidden = self.second(self.first(x))
        return (Poison.apply(hidden) if poisoned else hidden).square().mean()


def config_at(stage, grad_clip):
    return RunConfig.model_validate(
        {
            "regime": "test",
            "data": {"sources": {"none": {"shards": "none"}}},
            "schedule": {"lr": 1e-2},
            "optimizer": {"grad_clip": grad_clip},
            "engine": {"zero_stage": stage, "precision": "fp32", "batch_size": 4},
        }
    )


def train_at(stage, where, grad_clip):
    torch.manual_seed(0)
    model = TwoLayers()
    guard = NonFiniteGuard(model.first.bias, torch.device("cpu"))
    engine = build_engine(model, config_at(stage, grad_clip))
    result, before = {"changed": []}, dict(full_parameters(engine.module))
    for step in range(4):
        x = torch.randn(2, 4)
        nonfinite = step == NONFINITE_STEP and rank() == 1
        loss = engine(x, nonfinite and where == "gradient")
        if nonfinite and where == "loss":
            loss = loss + float("inf")  # its gradient stays finite
        hook = None
        if nonfinite and where == "past canary":
            hook = model.second.weight.register_hook(lambda gradient: gradient * float("nan"))
        engine.backward(loss)
        if hook is not None:
            hook.remove()
        skip = guard.nonfinite(loss)
        norm = optimizer_step(engine, skip)
        assert norm.shape == () and norm.dtype == torch.float32 and norm.device == skip.device
        guard.count_step(skip | ~norm.isfinite())
        after = dict(full_parameters(engine.module))
        result["changed"].append(not all(torch.equal(before[name], after[name]) for name in after))
        before = after
        if step == NONFINITE_STEP:
            result["counts"] = guard.pop_counts().tolist()
    result["updates"] = optimizer_updates(engine).item()
    result["counts_after"] = guard.pop_counts().tolist()
    return result


if __name__ == "__main__":
    join_process_group()
    cases = product((0, 1, 2, 3), ("loss", "gradient", "past canary"), (0.0, 0.1))
    results = {case: train_at(*case) for case in cases}
    if is_main():
        torch.save(results, sys.argv[1])
