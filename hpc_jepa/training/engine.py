"""The DeepSpeed engine of a run."""

from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import world_size
from hpc_jepa.errors import InputError
from hpc_jepa.training.compilation import compile_blocks
from hpc_jepa.training.ema import pack_parameters
from hpc_jepa.training.schedules import ScheduleValues

REDUCE_BUCKET_ELEMENTS = 50_000_000
"""Most gradient elements that wait to be reduced together: 200 MB. DeepSpeed's default takes 2 GB of any GPU."""


def build_engine(train_module: nn.Module, config: RunConfig) -> DeepSpeedEngine:
    """Wrap the trainee: AdamW on float32 weights, sharded as ``engine.zero_stage`` says.

    Mixed precision is the model's own autocast, so weights, gradients and optimizer state stay float32 here.
    Raises InputError when the processes cannot share the batch evenly, or when blocks cannot be compiled here.
    """
    batch, processes, stage = config.engine.batch_size, world_size(), config.engine.zero_stage
    if batch % processes:
        raise InputError(f"engine.batch_size: {batch} clips cannot be shared by {processes} processes; use a multiple")
    if config.engine.compile:
        compile_blocks(train_module)
    if stage == 0:
        pack_parameters(list(train_module.parameters()))  # the other stages do so themselves
    optimizer = torch.optim.AdamW(
        parameter_groups(train_module),
        lr=config.schedule.lr,
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
        fused=True,  # one kernel, and the only one that can leave out an update without asking the device
    )
    settings: dict[str, Any] = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch // processes,
        "gradient_clipping": config.optimizer.clip_gradient,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": config.engine.overlap_communication,
            "reduce_bucket_size": min(
                REDUCE_BUCKET_ELEMENTS, sum(p.numel() for p in train_module.parameters() if p.requires_grad)
            ),
            # DeepSpeed would ask the device whether the norm is finite; optimizer_step does not.
            "compute_grad_norm": stage not in (1, 2) or config.optimizer.clip_gradient > 0,
            "stage3_param_persistence_threshold": 0,  # the EMA of the shards does not reach a copy that stays gathered
        },
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=train_module, optimizer=optimizer, config=settings)
    return engine


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: biases and one-dimensional ones are not decayed."""
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    plain = {name for name, p in trainable if p.ndim <= 1 or name.endswith(".bias")}
    return [
        {"params": [p for name, p in trainable if name not in plain], "decayed": True},
        {"params": [p for name, p in trainable if name in plain], "decayed": False, "weight_decay": 0.0},
    ]


def set_schedule_values(engine: DeepSpeedEngine, schedule_values: ScheduleValues) -> None:
    """Learning rate and weight decay of the coming optimizer step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = schedule_values.learning_rate
        group["weight_decay"] = schedule_values.weight_decay if group["decayed"] else 0.0


def optimizer_step(engine: DeepSpeedEngine, nonfinite: Tensor) -> Tensor:
    """Update the weights unless ``broken`` (a truth value on the device) or the gradient is not finite.

    Returns the 2-norm of the averaged gradient, before any clipping; not finite where nothing was updated because of
    it. Where DeepSpeed takes the norm itself (at stage 3, and at stages 1 and 2 to clip it), it leaves out updates that
    are not finite, and asks the device for that.
    """
    norm = _device_gradient_norm(engine)
    if norm is not None:
        nonfinite = nonfinite | ~norm.isfinite()
    engine.basic_optimizer.found_inf = nonfinite.float()  # what torch's own gradient scaler tells a fused optimizer
    engine.step()
    return torch.as_tensor(engine.get_global_grad_norm() if norm is None else norm, dtype=torch.float32)


def _device_gradient_norm(engine: DeepSpeedEngine) -> Tensor | None:
    """2-norm of the averaged gradient on the device, infinite or no number where it is not finite.

    None where DeepSpeed takes it itself, after this. Collective at stages 1 and 2, where processes share the gradient;
    DeepSpeed's own function for it fills in a value that it asks the device for.
    """
    if not engine.zero_optimization():
        return get_total_norm([p.grad for p in engine.module.parameters() if p.grad is not None])
    if engine.zero_compute_grad_norm():
        return None
    parts = [part for group in engine.optimizer.averaged_gradients.values() for part in group]
    squared = get_total_norm(parts).square()
    if world_size() > 1:
        dist.all_reduce(squared)
    return squared.sqrt()
