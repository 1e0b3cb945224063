"""Twenty steps of a tiny model on noise, as one process of a part: ``python -m ...small_training JSON``.

Prints one JSON object per step. The batches, masks and initial weights are the same on every device and for any number
of processes, so the losses must agree. One step has a loss of NaN and must be skipped.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import GlooGroup, is_main, local_rows, rank, set_ds_accelerator, world_size
from hpc_jepa.io.imports import uncollected_imports

STEPS, BATCH = 20, 4
NAN_STEP, SAVED, KILLED = 7, 10, 14
"""The step with NaN, and the numbers of steps after which it saves and is killed."""


@dataclass(frozen=True)
class SmallTraining:
    """What one process does. action: train all steps; or save and be killed; or resume what was saved."""

    folder: str
    stages: tuple[int, ...] = (0, 1, 2, 3)
    action: str = "train"
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        """Arguments of ``python``."""
        return ["-m", "hpc_jepa.cli.gpu_check.small_training", json.dumps(asdict(self))]


def config_at(stage: int, task: SmallTraining) -> RunConfig:
    """fp32, and objectives whose random numbers do not depend on the device."""
    return RunConfig.model_validate(
        {
            "regime": "check",
            "study": f"stage-{stage}",
            "runs": task.folder,
            "seed": 5,
            "model": {
                "encoder": {"width": 64, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                "predictor": {"width": 32, "depth": 1, "heads": 2},
            },
            "data": {"sources": {"noise": {"shards": "none"}}, "clip": {"frames": 8, "size": 48}},
            "objectives": ["fwm", "hw", {"ld": {"hidden": 8}}],
            "masking": {"groups": [{"blocks": 2, "spatial_scale": 0.2}, {"blocks": 1, "spatial_scale": 0.5}]},
            "schedule": {"steps": STEPS, "warmup": 0.2, "lr": 1e-3, "ema_start": 0.9, "ema_final": 0.99},
            "engine": {"zero_stage": stage, "precision": "fp32", "batch_size": BATCH, **task.engine},
        }
    )


def step_losses(stage: int, task: SmallTraining) -> Iterator[dict[str, Any]]:
    """The loss of each step, as a mean over processes, and whether the step was skipped."""
    with uncollected_imports():
        import torch

        from hpc_jepa.checkpoint.writer import CheckpointWriter
        from hpc_jepa.objectives.composition import weighted_sum
        from hpc_jepa.training.build import build_masker
        from hpc_jepa.training.checkpoint_state import checkpoint_info, resume_from_checkpoint, shards_to_save
        from hpc_jepa.training.ema import TargetEMA
        from hpc_jepa.training.engine import build_engine, optimizer_step, set_schedule_values
        from hpc_jepa.training.launch import join_process_group
        from hpc_jepa.training.nonfinite import NonFiniteGuard
        from hpc_jepa.training.schedules import schedule_values_at
        from hpc_jepa.training.train_module import build_train_module

    device = join_process_group(folder=Path(task.folder))
    config = config_at(stage, task)
    train_module = build_train_module(config)
    model, objectives = train_module.model, train_module.objectives
    guard = NonFiniteGuard(model.student.modality.video, device)
    engine = build_engine(train_module, config)
    config.folder.mkdir(parents=True, exist_ok=True)
    ema, masker = TargetEMA(model.student, model.target), build_masker(config, GlooGroup())
    first = resume_from_checkpoint(engine, config, {}) if task.action == "resume" else 0
    with CheckpointWriter(config.folder, config.checkpoint) as writer:
        for step in range(first, KILLED if task.action == "save" else STEPS):
            clips = noise_clips(config, step, device)
            values = schedule_values_at(step, config.schedule)
            set_schedule_values(engine, values)
            terms, _ = engine(clips.pixels, masker(step, clips), step)
            loss = weighted_sum(terms, objectives.weights(step))
            engine.backward(loss * torch.nan if step == NAN_STEP else loss)
            skip = guard.nonfinite(loss * torch.nan if step == NAN_STEP else loss)
            norm = optimizer_step(engine, skip)
            guard.count_step(skip | ~norm.isfinite())
            ema.update(values.ema)
            total = loss.detach().clone()
            if world_size() > 1:
                torch.distributed.all_reduce(total)
            skipped = round(float(guard.pop_counts()[0]))
            yield {"stage": stage, "step": step, "loss": float(total) / world_size(), "skipped": skipped}
            if task.action == "save" and step + 1 == SAVED:
                writer.save(checkpoint_info(config, SAVED, {}, {}), shards_to_save(engine))


def noise_clips(config: RunConfig, step: int, device: Any) -> Any:
    """This process's rows of a batch that depends on the step alone."""
    import torch

    from hpc_jepa.types import ClipBatch

    clip = config.data.clip
    noise = torch.randn(BATCH, 3, clip.frames, clip.size, clip.size, generator=torch.Generator().manual_seed(step))
    pixels = noise[local_rows(BATCH, rank(), world_size())].to(device)
    zeros = torch.zeros(len(pixels), dtype=torch.int64, device=device)
    return ClipBatch(pixels, zeros, zeros, zeros.bool())


def train_small(task: SmallTraining) -> None:
    """Train at every stage, stage 3 last: it replaces torch.nn.functional.linear for good."""
    set_ds_accelerator()
    Path(task.folder).mkdir(parents=True, exist_ok=True)
    for stage in sorted(task.stages):
        for line in step_losses(stage, task):
            if is_main():
                print(json.dumps(line), flush=True)
    if task.action == "save":
        os.kill(os.getpid(), signal.SIGKILL)  # as a node that dies


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    train_small(SmallTraining(**{**arguments, "stages": tuple(arguments["stages"])}))
