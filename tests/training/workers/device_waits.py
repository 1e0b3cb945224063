"""Train on emulated CUDA streams at every ZeRO stage; rank 0 saves waits of the host, races, losses and weights.

usage: device_waits.py OUTPUT
"""

import sys
from contextlib import contextmanager, nullcontext
from itertools import product

import streams
import torch
from gathered import full_parameters
from zero_stages import BATCH, HostSyncCounter, clips_of, config_at

from hpc_jepa.distributed import is_main, rank, world_size
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.training import engine as engine_module
from hpc_jepa.training.ema import TargetEMA
from hpc_jepa.training.engine import build_engine, optimizer_step, set_schedule_values
from hpc_jepa.training.launch import join_process_group
from hpc_jepa.training.nonfinite import NonFiniteGuard
from hpc_jepa.training.schedules import schedule_values_at
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.training.zero_state import gather_after_updates
from hpc_jepa.types import TokenGrid

STEPS = 4


def train_at(stage, overlap, grad_clip, device):
    config = config_at(stage, STEPS, overlap)
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"grad_clip": grad_clip})})
    engine = build_engine(build_train_module(config), config)
    model = engine.module.model
    guard = NonFiniteGuard(model.student.modality.video, torch.device("cpu"))
    ema = TargetEMA(model.student, model.target)
    masker = MaskSampler(
        config.masking,
        config.semantics,
        TokenGrid(4, 6, 6),
        seed=config.seed,
        batch_size=BATCH,
        rank=rank(),
        world_size=world_size(),
    )
    result = {"waits": [], "host_syncs": [], "norms": []}
    device.races.clear()
    for step in range(STEPS):
        clips, masks = clips_of(step), masker(step, clips_of(step))
        device.waits.clear()
        with HostSyncCounter() as counter, streams.Launches() if overlap else nullcontext():
            set_schedule_values(engine, schedule_values_at(step, config.schedule))
            terms, _ = engine(clips.pixels, masks, step)
            loss = weighted_sum(terms, engine.module.objectives.weights(step))
            engine.backward(loss)
            norm = optimizer_step(engine, guard.nonfinite(loss))
            ema.update(0.9)
            gather_after_updates(engine)
        result["waits"].append(dict(device.waits))
        result["host_syncs"].append(counter.count)
        result["norms"].append(norm.item())
    races = sorted(set(device.races))
    return result | {"races": races, "weights": {name: w.clone() for name, w in full_parameters(engine.module)}}


@contextmanager
def defect(owner, name):
    """Replace a method by one that does nothing."""
    method = getattr(owner, name)
    setattr(owner, name, lambda *_: None)
    yield
    setattr(owner, name, method)


if __name__ == "__main__":
    join_process_group()
    device, this = streams.emulate(), sys.modules[__name__]
    engine_module.REDUCE_BUCKET_ELEMENTS = 5_000  # several exchanges per step
    results = {}
    with defect(streams.Stream, "wait_stream"):
        results["defect 1"] = train_at(1, True, 0.0, device)
    for stage, overlap in ((0, False), *product((1, 2, 3), (False, True))):
        for grad_clip in (0.0, 1e-2)[: 1 if overlap else 2]:
            results[stage, overlap, grad_clip] = train_at(stage, overlap, grad_clip, device)
    with defect(this, "gather_after_updates"):
        results["defect 3"] = train_at(3, True, 0.0, device)
    if is_main():
        torch.save(results, sys.argv[1])
