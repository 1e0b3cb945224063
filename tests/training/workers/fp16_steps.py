"""Scaled and unscaled steps of a float32 model at all stages, with and without an overflow (two processes)."""

import sys
from itertools import product

import torch
from nonfinite_steps import TwoLayers, config_at, full_parameters

from hpc_jepa.distributed import GlooGroup, is_main, rank
from hpc_jepa.training.engine import backward, build_engine
from hpc_jepa.training.launch import join_process_group
from hpc_jepa.training.nonfinite import NonFiniteGuard
from hpc_jepa.training.update import guarded_update

OVERFLOW_STEP = 2
STEPS = 4


def train_at(precision, stage, grad_clip, overflow, gather):
    torch.manual_seed(0)
    model = TwoLayers()
    guard = NonFiniteGuard(model.first.bias, torch.device("cpu"))
    config = config_at(stage, grad_clip)
    scale = {"loss_scale": {"initial": 2**14, "window": 3}} if precision == "fp16" else {}
    engine_config = type(config.engine).model_validate(config.engine.model_dump() | {"precision": precision} | scale)
    engine = build_engine(model, config.model_copy(update={"engine": engine_config}))
    result = {"norms": [], "scales": [], "unchanged": []}
    before = dict(full_parameters(engine.module))
    for step in range(STEPS):
        overflows = overflow and step == OVERFLOW_STEP and rank() == 1
        loss = engine(torch.randn(2, 4), overflows)  # True: the gradient of a layer is infinite, the loss is finite
        backward(engine, loss)
        result["norms"].append(guarded_update(engine, guard, loss.detach()).item())
        after = dict(full_parameters(engine.module))
        result["unchanged"].append(all(torch.equal(before[name], after[name]) for name in after))
        before = after
        if engine.loss_scaler is not None:
            result["scales"].append(gather(engine.loss_scaler.scale[None].clone()).tolist())
    result["faults"] = guard.pop_counts().tolist()
    result["overflows"] = 0.0
    if engine.loss_scaler is not None:
        result["overflows"] = engine.loss_scaler.metrics()["overflow_steps"].item()
    return {**result, "weights": before}


if __name__ == "__main__":
    join_process_group()
    gather = GlooGroup().gather
    cases = [(*case, False) for case in product(("fp32", "fp16"), (0, 1, 2, 3), (0.0, 0.1))]
    cases += [("fp16", stage, 0.1, True) for stage in (0, 1, 2, 3)]
    results = {case: train_at(*case, gather) for case in cases}
    if is_main():
        torch.save(results, sys.argv[1])
