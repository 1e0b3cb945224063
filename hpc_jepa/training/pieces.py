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

from hpc_jepa.checkpoint.shard import Piece
from hpc_jepa.distributed import rank, world_size

MOMENTS = ("exp_avg", "exp_avg_sq")
PARTS = {
    "model.student": "student",
    "model.target": "target",
    "model.predictor": "predictor",
    "objectives": "objectives",
}


@dataclass(frozen=True)
class Held:
    """Elements from ``start`` of the flattened tensor, which this process holds as ``view``; saved by it or another."""

    name: str
    shape: tuple[int, ...]
    start: int
    view: Tensor
    saved: slice

    @property
    def piece(self) -> Piece:
        """What this process saves of it."""
        return Piece(self.name, self.shape, self.start + self.saved.start, self.view[self.saved])


def held(engine: DeepSpeedEngine) -> Iterator[Held]:
    """Weights and, after the first update, Adam's moments."""
    for inside, parameter in engine.module.named_parameters():
        name = public_name(inside)
        if hasattr(parameter, "ds_id"):
            yield from _partitioned(engine, name, parameter)
        elif getattr(parameter, "_hp_mapping", None) is not None:
            yield from _mapped(engine, name, parameter)
        elif engine.zero_optimization() and parameter.requires_grad:
            yield _replica(name, parameter)
        else:
            yield from _whole(engine, name, parameter)


def updates(engine: DeepSpeedEngine) -> Tensor | None:
    """How many updates Adam has made: a scalar on the device, None before the first."""
    return next((state["step"] for state in engine.basic_optimizer.state.values()), None)


def begin_moments(engine: DeepSpeedEngine, done: Tensor, named: set[str]) -> None:
    """Give Adam the zeros that it would begin with, and the count of updates, for its state to be copied into.

    Without ZeRO a parameter that never had a gradient has no state: only those in ``named`` get one.
    """
    for parameter in _optimized(engine, named):
        zeros = {moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in MOMENTS}
        count = done.to(device=parameter.device, dtype=torch.float32).clone()
        engine.basic_optimizer.state[parameter] = {"step": count, **zeros}


def public_name(name: str) -> str:
    """The name in a checkpoint of what the trainee calls ``name``."""
    inside = next(inside for inside in PARTS if name.startswith(f"{inside}."))
    return PARTS[inside] + name.removeprefix(inside)


def _optimized(engine: DeepSpeedEngine, named: set[str]) -> list[Tensor]:
    """The tensors that Adam updates."""
    if engine.zero_optimization_stage() == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    if engine.zero_optimization():
        return list(engine.optimizer.single_partition_of_fp32_groups)
    return [p for name, p in engine.module.named_parameters() if p.requires_grad and public_name(name) in named]


def _whole(engine: DeepSpeedEngine, name: str, parameter: Any) -> Iterator[Held]:
    """Everywhere the same: each process saves an equal share."""
    count = parameter.numel()
    share = slice(count * rank() // world_size(), count * (rank() + 1) // world_size())
    state = engine.basic_optimizer.state.get(parameter, {})
    yield Held(name, tuple(parameter.shape), 0, parameter.data.view(-1), share)
    for moment in MOMENTS:
        if moment in state:
            yield Held(f"{moment}.{name}", tuple(parameter.shape), 0, state[moment].view(-1), share)


def _replica(name: str, parameter: Any) -> Held:
    """The whole parameter that ZeRO 1 and 2 compute with; its partitions are what is saved."""
    return Held(name, tuple(parameter.shape), 0, parameter.data.view(-1), slice(0, 0))


def _mapped(engine: DeepSpeedEngine, name: str, parameter: Any) -> Iterator[Held]:
    mapping = parameter._hp_mapping
    shape, start = tuple(parameter.shape), mapping.lp_fragment_address.start
    own = slice(0, mapping.hp_fragment_address.numel)
    yield _replica(name, parameter)
    yield Held(name, shape, start, mapping.hp_fragment, own)
    flat = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    state = engine.basic_optimizer.state.get(flat, {})
    for moment in MOMENTS:
        if moment in state:
            view = state[moment].narrow(0, mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel)
            yield Held(f"{moment}.{name}", shape, start, view, own)


def _partitioned(engine: DeepSpeedEngine, name: str, parameter: Any) -> Iterator[Held]:
    shape, share = tuple(parameter.ds_shape), parameter.ds_tensor.numel()
    start = rank() * share
    count = min(max(prod(shape) - start, 0), share)
    own = slice(0, count)
    yield Held(name, shape, start, parameter.ds_tensor.data[:count], own)
    if not parameter.requires_grad:
        return
    master = safe_get_local_fp32_param(parameter)
    if master.data_ptr() != parameter.ds_tensor.data_ptr():
        yield Held(name, shape, start, master[:count], slice(0, 0))
    if engine.basic_optimizer.state:
        for moment in MOMENTS:
            view = safe_get_local_optimizer_state(parameter, moment)[:count]
            yield Held(f"{moment}.{name}", shape, start, view, own)
