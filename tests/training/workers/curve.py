"""Two hundred steps of a tiny model in one of several variants: the losses, and how many programs were compiled.

usage: curve.py VARIANT OUTPUT
"""

import sys

import torch
from torch._dynamo.utils import counters

from hpc_jepa.config.run import RunConfig
from hpc_jepa.kernels.masked_error import plain_masked_error
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.objectives import token_errors
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.training.ema import TargetEMA
from hpc_jepa.training.engine import build_engine, optimizer_step, parameter_groups, set_schedule_values
from hpc_jepa.training.launch import join_process_group
from hpc_jepa.training.schedules import schedule_values_at
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.types import ClipBatch, TokenGrid

STEPS, BATCH = 200, 4
CONFIG = RunConfig.model_validate(
    {
        "regime": "test",
        "seed": 6,
        "model": {
            "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
            "predictor": {"width": 16, "depth": 1, "heads": 2},
        },
        "data": {"sources": {"none": {"shards": "none"}}, "clip": {"frames": 8, "size": 32}},
        "objectives": ["fwm", "hw", {"ld": {"hidden": 8}}],
        "masking": {"groups": [{"blocks": 2, "spatial_scale": 0.2}, {"blocks": 1, "spatial_scale": 0.5}]},
        "schedule": {"steps": STEPS, "warmup": 0.1, "ema_start": 0.99, "ema_final": 0.999},
        "engine": {"zero_stage": 1, "precision": "fp32", "batch_size": BATCH},
    }
)
ADAMW = {"betas": CONFIG.optimizer.betas, "eps": CONFIG.optimizer.eps}


def schedule(optimizer, schedule_values):
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = (
            schedule_values.learning_rate,
            schedule_values.weight_decay * group["decayed"],
        )


class Plain:
    """Optimizer and EMA tensor by tensor, with plain operations."""

    def __init__(self, train_module):
        self.forward, self.model = train_module, train_module.model
        self.optimizer = torch.optim.AdamW(parameter_groups(train_module), **ADAMW, foreach=False, fused=False)

    def update(self, loss, schedule_values):
        self.optimizer.zero_grad()
        loss.backward()
        schedule(self.optimizer, schedule_values)
        self.optimizer.step()
        with torch.no_grad():
            for target, student in zip(self.model.target.parameters(), self.model.student.parameters(), strict=True):
                target.mul_(schedule_values.ema).add_(student, alpha=1 - schedule_values.ema)


class Engine:
    """The step of a run."""

    config = CONFIG

    def __init__(self, train_module):
        self.forward = build_engine(train_module, self.config)
        self.ema = TargetEMA(train_module.model.student, train_module.model.target)

    def update(self, loss, schedule_values):
        set_schedule_values(self.forward, schedule_values)
        self.forward.backward(loss)
        optimizer_step(self.forward, torch.zeros_like(loss, dtype=torch.bool))
        self.ema.update(schedule_values.ema)


class CompiledEngine(Engine):
    """The step of a run with engine.compile."""

    config = CONFIG.model_copy(update={"engine": CONFIG.engine.model_copy(update={"compile": True})})


class Mixed(Engine):
    """The step of a run in bf16."""

    config = CONFIG.model_copy(update={"engine": CONFIG.engine.model_copy(update={"precision": "bf16"})})


class MixedKernels(Mixed):
    """The same with the fused forms that a GPU uses in the networks."""

    def __init__(self, train_module):
        from reference_kernels import use_reference_kernels

        use_reference_kernels()
        super().__init__(train_module)


VARIANTS = (Plain, Engine, CompiledEngine, Mixed, MixedKernels)


def curve(variant, device):
    """Losses of all steps."""
    train_module = build_train_module(getattr(variant, "config", CONFIG)).to(device)
    trained = variant(train_module)
    masker = MaskSampler(CONFIG.masking, CONFIG.semantics, TokenGrid(4, 4, 4), seed=CONFIG.seed, batch_size=BATCH)
    nothing = torch.zeros(BATCH, dtype=torch.int64, device=device)
    losses = []
    for step in range(STEPS):
        pixels = torch.randn(BATCH, 3, 8, 32, 32, generator=torch.Generator().manual_seed(step)).to(device)
        masks = masker(step, ClipBatch(pixels, nothing, nothing, nothing.bool()))
        terms, _ = trained.forward(pixels, masks, step)
        loss = weighted_sum(terms, train_module.objectives.weights(step))
        trained.update(loss, schedule_values_at(step, CONFIG.schedule))
        losses.append(loss.item())
    return torch.tensor(losses)


if __name__ == "__main__":
    variant, output = sys.argv[1:]
    if variant == "Plain":
        token_errors.masked_error = plain_masked_error
    losses = curve({known.__name__: known for known in VARIANTS}[variant], join_process_group())
    torch.save({"losses": losses, "programs": counters["stats"]["unique_graphs"]}, output)
