"""Save a tiny run at every ZeRO stage, or resume from all saved ones; rank 0 saves the results.

usage: elastic.py save FOLDER
       elastic.py load FOLDER OUTPUT     resumes every checkpoint in FOLDER at every stage
"""

import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from gathered import full_parameters

from hpc_jepa.checkpoint import layout, reader
from hpc_jepa.checkpoint.writer import CheckpointWriter
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.training import CheckpointConfig
from hpc_jepa.distributed import GlooGroup, is_main, rank, world_size
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.checkpoint_state import checkpoint_info, restore, shards_to_save
from hpc_jepa.training.ema import TargetEMA
from hpc_jepa.training.engine import build_engine, optimizer_step, set_schedule_values
from hpc_jepa.training.launch import join_process_group
from hpc_jepa.training.nonfinite import NonFiniteGuard
from hpc_jepa.training.schedules import schedule_values_at
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.training.zero_state import checkpoint_name
from hpc_jepa.types import ClipBatch, TokenGrid

BATCH, SAVED_AT, MORE = 4, 2, 2
STAGES = (0, 1, 2, 3)


class Tiny:
    """A run without files: random clips that depend on the step alone."""

    def __init__(self, stage):
        self.config = config = RunConfig.model_validate(
            {
                "regime": "test",
                "seed": 5,
                "model": {
                    "encoder": {"width": 16, "depth": 1, "heads": 2, "patch": 8, "levels": [1]},
                    "predictor": {"width": 16, "depth": 1, "heads": 2},
                },
                "data": {"sources": {"none": {"shards": "none"}}, "clip": {"frames": 8, "size": 32}},
                "objectives": [{"ld": {"hidden": 7}}],
                "schedule": {"steps": 10, "warmup": 0.2, "lr": 1e-3, "ema_start": 0.9, "ema_final": 0.99},
                "engine": {"zero_stage": stage, "precision": "fp32", "batch_size": BATCH},
            }
        )
        train_module = build_train_module(config)
        self.guard = NonFiniteGuard(train_module.model.student.modality.video, torch.device("cpu"))
        self.engine = build_engine(train_module, config)
        self.ema = TargetEMA(train_module.model.student, train_module.model.target)
        self.masker = MaskSampler(
            config.masking,
            config.semantics,
            TokenGrid(4, 4, 4),
            seed=config.seed,
            batch_size=BATCH,
            rank=rank(),
            world_size=world_size(),
            gather=GlooGroup().gather,
        )

    def train(self, first, last):
        """Loss of the global batch at each step."""
        losses = []
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            pixels = torch.randn(BATCH, 3, 8, 32, 32, generator=generator).chunk(world_size())[rank()]
            nothing = torch.zeros(len(pixels), dtype=torch.int64)
            schedule_values = schedule_values_at(step, self.config.schedule)
            set_schedule_values(self.engine, schedule_values)
            masks = self.masker(step, ClipBatch(pixels, nothing, nothing, nothing.bool()))
            terms, _ = self.engine(pixels, masks, step)
            loss = weighted_sum(terms, self.engine.module.objectives.weights(step))
            self.engine.backward(loss)
            optimizer_step(self.engine, self.guard.nonfinite(loss))
            self.ema.update(schedule_values.ema)
            total = loss.detach().clone()
            if world_size() > 1:
                torch.distributed.all_reduce(total)
            losses.append(total.item() / world_size())
        return losses

    def save(self, writer, step):
        writer.save(checkpoint_info(self.config, step, {}, {}), shards_to_save(self.engine))
        writer.wait()


@contextmanager
def saving(run):
    if is_main():
        run.mkdir(parents=True)
    torch.distributed.barrier()
    with CheckpointWriter(run, CheckpointConfig()) as writer:
        yield writer


def save(folder):
    for stage in STAGES:
        run = folder / f"world-{world_size()}-stage-{stage}"
        tiny = Tiny(stage)
        tiny.train(0, SAVED_AT)
        with saving(run) as writer:
            tiny.save(writer, SAVED_AT)
            losses = tiny.train(SAVED_AT, SAVED_AT + MORE)
            tiny.save(writer, SAVED_AT + MORE)  # the uninterrupted reference
        if is_main():
            torch.save(losses, run / "losses.pt")


def load(folder, output):
    """Each engine loads all checkpoints in turn, so that anything not restored keeps a wrong value.

    Stage 3 comes last: DeepSpeed patches the linear layers of the whole process there.
    """
    results = {}
    for stage in STAGES:
        tiny = Tiny(stage)
        for run in sorted(folder.iterdir()):
            results[run.name, world_size(), stage] = resumed(
                tiny, run, output.parent / "again" / f"{output.stem}-{stage}"
            )
    if is_main():
        torch.save(results, output)


def resumed(tiny, run, again):
    checkpoint = layout.open_checkpoint(RunDir(run).checkpoint_dir(SAVED_AT))
    stored = reader.open_tensors(checkpoint.path)
    restore(tiny.engine, checkpoint)
    same = all(torch.equal(stored[checkpoint_name(name)], value) for name, value in full_parameters(tiny.engine.module))
    with saving(again / run.name) as writer:
        tiny.save(writer, SAVED_AT)
        losses = tiny.train(SAVED_AT, SAVED_AT + MORE)
        if checkpoint.manifest.world_size == world_size():
            tiny.save(writer, SAVED_AT + MORE)
    return {"weights_equal": same, "losses": losses, "again": str(again / run.name)}


if __name__ == "__main__":
    join_process_group()
    if sys.argv[1] == "save":
        save(Path(sys.argv[2]))
    else:
        load(Path(sys.argv[2]), Path(sys.argv[3]))
