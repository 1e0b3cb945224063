"""The DeepSpeed engine: AdamW, ZeRO sharding, gradient norm, and optional torch.compile of the transformer blocks."""

import logging
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import local_rows, rank, world_size
from hpc_jepa.errors import InputError
from hpc_jepa.models.block import Block
from hpc_jepa.training.schedules import ScheduleValues

LOG = logging.getLogger(__name__)

REDUCE_BUCKET_ELEMENTS = 50_000_000
"""Largest gradient all-reduce bucket: 200 MB in float32. DeepSpeed's default of 500 M elements takes 2 GB."""


def build_engine(train_module: nn.Module, config: RunConfig) -> DeepSpeedEngine:
    """Wrap a module in DeepSpeed: AdamW on float32 weights, sharded at ``engine.zero_stage``.

    Mixed precision is the model's own autocast, so weights, gradients and optimizer state stay float32 here.
    Raises InputError if the batch does not divide among the ranks, or if ``engine.compile`` finds no compiler.
    """
    batch, stage = config.engine.batch_size, config.engine.zero_stage
    rows = local_rows(batch, rank(), world_size())
    if config.engine.compile:
        compile_blocks(train_module)
    trainable = sum(p.numel() for p in train_module.parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW(
        parameter_groups(train_module),
        lr=config.schedule.lr,
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
        fused=True,  # the only implementation that can skip an update (found_inf) without a host sync
    )
    settings: dict[str, Any] = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": rows.stop - rows.start,
        "gradient_clipping": config.optimizer.grad_clip,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": config.engine.overlap_communication,
            "reduce_bucket_size": min(REDUCE_BUCKET_ELEMENTS, trainable),
            # DeepSpeed's own norm costs a host sync per step; optimizer_step computes it without one.
            "compute_grad_norm": stage not in (1, 2) or config.optimizer.grad_clip > 0,
            # Persistent parameters stay gathered, and the EMA of the shards would not reach the gathered copy.
            "stage3_param_persistence_threshold": 0,
        },
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=train_module, optimizer=optimizer, config=settings)
    return engine


def compile_blocks(module: nn.Module) -> None:
    """Compile every transformer block with torch.compile, which fuses the operations between matrix products.

    Blocks are compiled one by one, so all blocks of a network share one compiled program. The number of tokens is
    dynamic (a CPU gets two programs, for few and for many tokens): masks produce about 50 token counts in a run, and
    one program each would take far longer to compile than it saves.

    Raises InputError if the C++ compiler or Python's headers are missing; compiled GPU code needs them too.
    """
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise InputError(
            f"engine.compile: C++ compiler '{compiler}' not found; install g++, set CXX, or set engine.compile=false"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise InputError(f"engine.compile: {header} not found; install Python's headers, or set engine.compile=false")
    LOG.info("torch.compile is on: the first step takes a minute or more")
    for block in module.modules():
        if isinstance(block, Block):
            block.compile(dynamic=True)


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in two AdamW groups: biases and one-dimensional parameters have no weight decay."""
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    plain = {name for name, p in trainable if p.ndim <= 1 or name.endswith(".bias")}
    return [
        {"params": [p for name, p in trainable if name not in plain], "decayed": True},
        {"params": [p for name, p in trainable if name in plain], "decayed": False, "weight_decay": 0.0},
    ]


def set_schedule_values(engine: DeepSpeedEngine, schedule_values: ScheduleValues) -> None:
    """Set learning rate and weight decay for the next optimizer step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = schedule_values.learning_rate
        group["weight_decay"] = schedule_values.weight_decay if group["decayed"] else 0.0


def optimizer_step(engine: DeepSpeedEngine, skip: Tensor) -> Tensor:
    """Update the weights, unless ``skip`` (a boolean on the device) is set or the gradient is non-finite.

    Returns the 2-norm of the averaged gradient before clipping, non-finite if that is why the update was skipped.
    No host sync, except where DeepSpeed computes the norm itself (at stage 3, and at stages 1 and 2 when it clips).
    """
    norm = _gradient_norm(engine)
    if norm is not None:
        skip = skip | ~norm.isfinite()
    engine.basic_optimizer.found_inf = skip.float()  # the attribute torch.amp.GradScaler sets on fused optimizers
    engine.step()
    return torch.as_tensor(engine.get_global_grad_norm() if norm is None else norm, dtype=torch.float32)


def _gradient_norm(engine: DeepSpeedEngine) -> Tensor | None:
    """2-norm of the averaged gradient, computed on the device; None where DeepSpeed computes it in ``engine.step``.

    Collective at stages 1 and 2, where gradients are sharded.
    """
    if not engine.zero_optimization():
        return get_total_norm([p.grad for p in engine.module.parameters() if p.grad is not None])
    if engine.zero_compute_grad_norm():
        return None
    shards = [shard for group in engine.optimizer.averaged_gradients.values() for shard in group]
    squared = get_total_norm(shards).square()
    if world_size() > 1:
        dist.all_reduce(squared)
    return squared.sqrt()
