"""The DeepSpeed engine: AdamW, ZeRO sharding, gradient norm, and optional torch.compile of the transformer blocks."""

import logging
import os
import shutil
import sysconfig
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.utils import get_total_norm

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import local_rows, rank, world_size
from hpc_jepa.errors import InputError
from hpc_jepa.kernels.eager_optimizer import eager_optimizer
from hpc_jepa.models.block import Block
from hpc_jepa.training.loss_scale import LossScaler
from hpc_jepa.training.schedules import ScheduleValues
from hpc_jepa.training.uncompiled import import_muon, uncompiled_stage_3

LOG = logging.getLogger(__name__)

REDUCE_BUCKET_ELEMENTS = 50_000_000
"""Largest gradient all-reduce bucket: 200 MB in float32. DeepSpeed's default of 500 M elements takes 2 GB."""


def build_engine(train_module: nn.Module, config: RunConfig) -> DeepSpeedEngine:
    """Wrap a module in DeepSpeed: AdamW on float32 weights, sharded at ``engine.zero_stage``.

    Mixed precision is the model's own autocast, so weights, gradients and optimizer state stay float32 here, and
    DeepSpeed's sections ``bf16`` and ``fp16`` stay off.
    Raises InputError if the batch does not divide among the ranks, or if ``engine.compile`` finds no compiler.
    """
    batch, stage, grad_clip = config.engine.batch_size, config.engine.zero_stage, config.optimizer.grad_clip
    accumulation = config.engine.accumulation
    rows = local_rows(batch, rank(), world_size(), accumulation)
    if config.engine.compile:
        compile_blocks(train_module)
    trainable = sum(p.numel() for p in train_module.parameters() if p.requires_grad)
    optimizer = eager_optimizer(
        torch.optim.AdamW,
        parameter_groups(train_module),
        lr=config.schedule.lr,
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
        fused=True,  # the only implementation that can skip an update (found_inf) without a host sync
    )
    settings: dict[str, Any] = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": (rows.stop - rows.start) // accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": grad_clip if stage == 3 else 0.0,  # optimizer_step clips without a host sync
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": config.engine.overlap_communication,
            "reduce_bucket_size": min(REDUCE_BUCKET_ELEMENTS, trainable),
            # DeepSpeed's own norm costs a host sync per step; optimizer_step computes it without one.
            "compute_grad_norm": stage not in (1, 2),
            # Persistent parameters stay gathered, and the EMA of the shards would not reach the gathered copy.
            "stage3_param_persistence_threshold": 0,
        },
        "zero_allow_untested_optimizer": True,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device twice per step
    }
    import_muon()
    with uncompiled_stage_3() if stage == 3 else nullcontext():
        engine, *_ = deepspeed.initialize(model=train_module, optimizer=optimizer, config=settings)
    engine.grad_clip = grad_clip
    scaled = config.engine.precision == "fp16"
    engine.loss_scaler = LossScaler(config.engine.loss_scale, engine.device) if scaled else None
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


def backward(engine: DeepSpeedEngine, loss: Tensor) -> None:
    """Backward pass of a loss, which is scaled in fp16; :func:`optimizer_step` takes the scale out of the gradient."""
    engine.backward(loss if engine.loss_scaler is None else engine.loss_scaler.scaled(loss))


def optimizer_step(engine: DeepSpeedEngine, skip: Tensor) -> Tensor:
    """Clip the gradient and update the weights, unless ``skip`` (a boolean) is set or the gradient is non-finite.

    Returns the 2-norm of the averaged gradient before clipping, on the device of ``skip``; non-finite if that is why
    the update was skipped. No host sync, except at stage 3, where DeepSpeed computes the norm and checks it.
    """
    if engine.loss_scaler is not None:
        engine.loss_scaler.unscale(_gradients(engine))
    if engine.zero_optimization_stage() == 3:
        engine.basic_optimizer.found_inf = skip.float()
        engine.step()
        # DeepSpeed returns a tensor, or a Python number if it skipped the update.
        return torch.as_tensor(engine.get_global_grad_norm(), dtype=torch.float32, device=skip.device)
    norm = _clip_gradient(engine) if engine.grad_clip else _gradient_norm(engine)
    # The attribute torch.amp.GradScaler sets on fused optimizers.
    engine.basic_optimizer.found_inf = (skip | ~norm.isfinite()).float()
    engine.step()
    return norm


def _gradients(engine: DeepSpeedEngine) -> list[Tensor]:
    """The averaged gradient as this rank holds it: whole at stage 0, else its shards."""
    if not engine.zero_optimization():
        return [p.grad for p in engine.module.parameters() if p.grad is not None]
    return [shard for group in engine.optimizer.averaged_gradients.values() for shard in group or ()]


def _gradient_norm(engine: DeepSpeedEngine) -> Tensor:
    """2-norm of the averaged gradient at stages 0 to 2. Collective at stages 1 and 2, where gradients are sharded."""
    if not engine.zero_optimization():
        return get_total_norm(_gradients(engine))
    squared = get_total_norm(_gradients(engine)).square()
    if world_size() > 1:
        dist.all_reduce(squared)
    return squared.sqrt()


def _clip_gradient(engine: DeepSpeedEngine) -> Tensor:
    """Scale the averaged gradient down to ``engine.grad_clip`` at stages 0 to 2; returns its 2-norm before. Collective.

    The same sums in the same order as in DeepSpeed 0.19, so that runs clipped by DeepSpeed continue bit for bit.
    """
    if engine.zero_optimization():
        norm = _partition_norm(engine)
        scale = 1.0 / ((norm + 1e-6) / engine.grad_clip).clamp(min=1.0)
        for group in engine.optimizer.averaged_gradients.values():
            torch._foreach_mul_(group, scale)
        return norm
    norm = _gradient_norm(engine)
    parameters = [p for p in engine.module.parameters() if p.grad is not None]
    limited = torch.stack([p.grad.norm() for p in parameters]).square().sum().sqrt() / world_size()
    if world_size() > 1:
        dist.all_reduce(limited)
    scale = torch.full_like(limited, engine.grad_clip) / (limited + 1e-6)
    torch._foreach_mul_([p.grad for p in parameters], scale.clamp(max=1.0))
    return norm


def _partition_norm(engine: DeepSpeedEngine) -> Tensor:
    """2-norm of the averaged gradient at stages 1 and 2, summed in float64 per parameter. Collective."""
    zero, groups = engine.optimizer, []
    for group, shards in zero.averaged_gradients.items():
        local = shards[: max(len(zero.params_in_partition[group]), 1)]  # without the padding after the last parameter
        squared = torch.stack([vector_norm(shard, dtype=torch.double) for shard in local]).square().sum().float()
        if world_size() > 1:
            dist.all_reduce(squared)
        groups.append(squared.sqrt())
    norm: Tensor = vector_norm(torch.stack(groups))
    return norm
