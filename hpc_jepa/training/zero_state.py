"""What this process holds of every named tensor of a run, at any ZeRO stage.

The same views serve both ways: a save copies from them, a resume copies into them. DeepSpeed 0.19 keeps float32 weights
and Adam's moments of a trainable parameter

    stage 0     in the parameter and the optimizer's state of it, whole, on every process;
    stage 1, 2  in one flat partition per parameter group, of which ``_hp_mapping`` names this process's part of the
                parameter; the parameter itself is whole on every process;
    stage 3     in ``ds_tensor``, an equal share of the flattened parameter, padded at the end, and in flat partitions.

Frozen parameters have no optimizer: whole on every process, or ``ds_tensor`` at stage 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state
from torch import Tensor

from hpc_jepa.checkpoint.rank_file import TensorShard
from hpc_jepa.distributed import rank, world_size

MOMENTS = ("exp_avg", "exp_avg_sq")
NAME_PREFIXES = {
    "model.student": "student",
    "model.target": "target",
    "model.predictor": "predictor",
    "objectives": "objectives",
}


@dataclass(frozen=True)
class LocalShard:
    """Elements from ``start`` of the flattened tensor, which this process holds as ``view``; saved by it or another."""

    name: str
    shape: tuple[int, ...]
    start: int
    view: Tensor
    saved_slice: slice

    @property
    def to_save(self) -> TensorShard:
        """What this process saves of it."""
        return TensorShard(self.name, self.shape, self.start + self.saved_slice.start, self.view[self.saved_slice])


def local_shards(engine: DeepSpeedEngine) -> Iterator[LocalShard]:
    """Weights and, after the first update, Adam's moments."""
    for inside, parameter in engine.module.named_parameters():
        name = checkpoint_name(inside)
        if hasattr(parameter, "ds_id"):
            yield from _zero3_shards(engine, name, parameter)
        elif getattr(parameter, "_hp_mapping", None) is not None:
            yield from _zero12_shards(engine, name, parameter)
        elif engine.zero_optimization() and parameter.requires_grad:
            yield _replicated_shard(name, parameter)
        else:
            yield from _unsharded_shards(engine, name, parameter)


def optimizer_updates(engine: DeepSpeedEngine) -> Tensor | None:
    """How many updates Adam has made: a scalar on the device, None before the first."""
    return next((state["step"] for state in engine.basic_optimizer.state.values()), None)


def init_optimizer_state(engine: DeepSpeedEngine, done: Tensor, named: set[str]) -> None:
    """Give Adam the zeros that it would begin with, and the count of updates, for its state to be copied into.

    Without ZeRO a parameter that never had a gradient has no state: only those in ``named`` get one.
    """
    for parameter in _optimizer_tensors(engine, named):
        zeros = {moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in MOMENTS}
        count = done.to(device=parameter.device, dtype=torch.float32).clone()
        engine.basic_optimizer.state[parameter] = {"step": count, **zeros}


def checkpoint_name(name: str) -> str:
    """The name in a checkpoint of what the trainee calls ``name``."""
    inside = next(inside for inside in NAME_PREFIXES if name.startswith(f"{inside}."))
    return NAME_PREFIXES[inside] + name.removeprefix(inside)


def _optimizer_tensors(engine: DeepSpeedEngine, named: set[str]) -> list[Tensor]:
    """The tensors that Adam updates."""
    if engine.zero_optimization_stage() == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    if engine.zero_optimization():
        return list(engine.optimizer.single_partition_of_fp32_groups)
    return [p for name, p in engine.module.named_parameters() if p.requires_grad and checkpoint_name(name) in named]


def _unsharded_shards(engine: DeepSpeedEngine, name: str, parameter: Any) -> Iterator[LocalShard]:
    """Everywhere the same: each process saves an equal share."""
    count = parameter.numel()
    share = slice(count * rank() // world_size(), count * (rank() + 1) // world_size())
    state = engine.basic_optimizer.state.get(parameter, {})
    yield LocalShard(name, tuple(parameter.shape), 0, parameter.data.view(-1), share)
    for moment in MOMENTS:
        if moment in state:
            yield LocalShard(f"{moment}.{name}", tuple(parameter.shape), 0, state[moment].view(-1), share)


def _replicated_shard(name: str, parameter: Any) -> LocalShard:
    """The whole parameter that ZeRO 1 and 2 compute with; its partitions are what is saved."""
    return LocalShard(name, tuple(parameter.shape), 0, parameter.data.view(-1), slice(0, 0))


def _zero12_shards(engine: DeepSpeedEngine, name: str, parameter: Any) -> Iterator[LocalShard]:
    mapping = parameter._hp_mapping
    shape, start = tuple(parameter.shape), mapping.lp_fragment_address.start
    own = slice(0, mapping.hp_fragment_address.numel)
    yield _replicated_shard(name, parameter)
    yield LocalShard(name, shape, start, mapping.hp_fragment, own)
    flat = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    state = engine.basic_optimizer.state.get(flat, {})
    for moment in MOMENTS:
        if moment in state:
            view = state[moment].narrow(0, mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel)
            yield LocalShard(f"{moment}.{name}", shape, start, view, own)


def _zero3_shards(engine: DeepSpeedEngine, name: str, parameter: Any) -> Iterator[LocalShard]:
    shape, share = tuple(parameter.ds_shape), parameter.ds_tensor.numel()
    start = rank() * share
    count = min(max(prod(shape) - start, 0), share)
    own = slice(0, count)
    yield LocalShard(name, shape, start, parameter.ds_tensor.data[:count], own)
    if not parameter.requires_grad:
        return
    master = safe_get_local_fp32_param(parameter)
    if master.data_ptr() != parameter.ds_tensor.data_ptr():
        yield LocalShard(name, shape, start, master[:count], slice(0, 0))
    if engine.basic_optimizer.state:
        for moment in MOMENTS:
            view = safe_get_local_optimizer_state(parameter, moment)[:count]
            yield LocalShard(f"{moment}.{name}", shape, start, view, own)
