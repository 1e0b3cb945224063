"""Train a tiny model at every ZeRO stage; rank 0 saves losses, norms, host syncs and whether the EMA was exact.

usage: zero_stages.py OUTPUT STEPS
"""

import sys
from pathlib import Path

import torch
from gathered import full_parameters
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import is_main, rank, world_size
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.training.ema import TargetEMA
from hpc_jepa.training.engine import build_engine, optimizer_step, set_schedule_values
from hpc_jepa.training.launch import join_process_group
from hpc_jepa.training.nonfinite import NonFiniteGuard
from hpc_jepa.training.schedules import schedule_values_at
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.types import ClipBatch, TokenGrid

BATCH = 4
HOST_SYNC_OPERATORS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "item",
    "unique_consecutive",
}


class HostSyncCounter(TorchDispatchMode):
    """Counts operations whose result the host must wait for; masked_fill_ with a tensor value syncs on a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += (
            function.overloadpacket.__name__ in HOST_SYNC_OPERATORS or function == torch.ops.aten.masked_fill_.Tensor
        )
        return function(*args, **(kwargs or {}))


def config_at(stage, steps, overlap):
    return RunConfig.model_validate(
        {
            "regime": "test",
            "seed": 5,
            "model": {
                "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                "predictor": {"width": 16, "depth": 1, "heads": 2},
            },
            "data": {"sources": {"none": {"shards": "none"}}, "clip": {"frames": 8, "size": 48}},
            "objectives": ["fwm", "hw", {"ld": {"hidden": 8}}],
            "masking": {"groups": [{"blocks": 2, "spatial_scale": 0.2}, {"blocks": 1, "spatial_scale": 0.5}]},
            "schedule": {"steps": steps, "warmup": 0.2, "lr": 1e-2, "ema_start": 0.9, "ema_final": 0.99},
            "engine": {
                "zero_stage": stage,
                "precision": "fp32",
                "batch_size": BATCH,
                "overlap_communication": overlap,
            },
        }
    )


def clips_of(step):
    """This rank's rows of a batch that depends on the step alone."""
    generator = torch.Generator().manual_seed(step)
    pixels = torch.randn(BATCH, 3, 8, 48, 48, generator=generator).chunk(world_size())[rank()]
    nothing = torch.zeros(len(pixels), dtype=torch.int64)
    return ClipBatch(pixels, nothing, nothing, nothing.bool())


def weights_of(module):
    return {name: value.clone() for name, value in full_parameters(module)}


def train_at(stage, steps, overlap=False):
    config = config_at(stage, steps, overlap)
    engine = build_engine(build_train_module(config), config)
    model = engine.module.model
    masker = MaskSampler(
        config.masking,
        config.semantics,
        TokenGrid(4, 6, 6),
        seed=config.seed,
        batch_size=BATCH,
        rank=rank(),
        world_size=world_size(),
    )
    ema = TargetEMA(model.student, model.target)
    expected = weights_of(model.target)
    guard = NonFiniteGuard(model.student.modality.video, torch.device("cpu"))
    losses, norms, equal, host_syncs = [], [], [], []
    for step in range(steps):
        clips, schedule_values = clips_of(step), schedule_values_at(step, config.schedule)
        masks = masker(step, clips)
        with HostSyncCounter() as counter:
            set_schedule_values(engine, schedule_values)
            terms, _ = engine(clips.pixels, masks, step)
            loss = weighted_sum(terms, engine.module.objectives.weights(step))
            engine.backward(loss)
            norm = optimizer_step(engine, guard.nonfinite(loss))
            ema.update(schedule_values.ema)
        host_syncs.append(counter.count)
        norms.append(norm.item())

        for name, student in weights_of(model.student).items():
            expected[name] = torch.lerp(expected[name], student, 1.0 - schedule_values.ema)
        equal.append(all(torch.equal(expected[name], value) for name, value in weights_of(model.target).items()))
        total = loss.detach().clone()
        if world_size() > 1:
            torch.distributed.all_reduce(total)
        losses.append(total.item() / world_size())
    student = weights_of(model.student)
    return {"losses": losses, "norms": norms, "ema_equal": equal, "student": student, "host_syncs": host_syncs}


if __name__ == "__main__":
    output, steps = Path(sys.argv[1]), int(sys.argv[2])
    join_process_group()
    results = {"overlapping": {stage: train_at(stage, steps, overlap=True)["losses"] for stage in (1, 2)}}
    results |= {stage: train_at(stage, steps) for stage in (0, 1, 2)}
    results["overlapping"][3] = train_at(3, steps, overlap=True)["losses"]
    results[3] = train_at(3, steps)  # last: stage 3 patches torch.nn.functional.linear permanently
    if is_main():
        torch.save(results, output)
