"""The tensors of a run that this rank holds, by name, at any ZeRO stage.

Saving copies from these views, resuming copies into them. DeepSpeed 0.19 keeps the float32 weights and Adam moments of
a trainable parameter

    stage 0     in the parameter and in its optimizer state, whole, on every rank;
    stage 1, 2  in one flat partition per parameter group, in which ``_hp_mapping`` locates this rank's fragment of the
                parameter; the parameter itself is whole on every rank;
    stage 3     in ``ds_tensor``, an equal shard of the flattened parameter, padded at the end, and in flat partitions.

Frozen parameters have no optimizer state: whole on every rank, or ``ds_tensor`` at stage 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
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
"""Prefixes of parameter names in the module and in a checkpoint."""


@dataclass(frozen=True)
class LocalShard:
    """Elements of a flattened tensor that this rank holds.

    shape: of the whole tensor. start: first element held. view [n]: the elements. saved_slice: the part of ``view``
    that this rank saves; other ranks save the rest.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    view: Tensor
    saved_slice: slice

    @property
    def to_save(self) -> TensorShard:
        """The part of the shard that this rank saves."""
        return TensorShard(self.name, self.shape, self.start + self.saved_slice.start, self.view[self.saved_slice])


def local_shards(engine: DeepSpeedEngine) -> Iterator[LocalShard]:
    """Weights and, after the first update, Adam moments."""
    for module_name, parameter in engine.module.named_parameters():
        name = checkpoint_name(module_name)
        if hasattr(parameter, "ds_id"):
            yield from _zero3_shards(engine, name, parameter)
        elif getattr(parameter, "_hp_mapping", None) is not None:
            yield from _zero12_shards(engine, name, parameter)
        elif engine.zero_optimization() and parameter.requires_grad:
            yield _replicated_shard(name, parameter)
        else:
            yield from _unsharded_shards(engine, name, parameter)


def gather_after_updates(engine: DeepSpeedEngine) -> None:
    """Make the next gathering of weights wait for the updates queued so far, on the device. Call it after a step.

    With ``engine.overlap_communication`` stage 3 gathers weights on a CUDA stream of its own, which DeepSpeed 0.19
    orders after nothing: the next forward pass could gather weights that the optimizer or the EMA has not written yet.
    DeepSpeed has no public name for that stream.
    """
    if engine.zero_optimization_stage() == 3:
        stream = engine.optimizer.parameter_offload._DeepSpeedZeRoOffload__allgather_stream
        if stream is not None:  # None on a CPU
            stream.wait_stream(get_accelerator().current_stream())


def optimizer_updates(engine: DeepSpeedEngine) -> Tensor | None:
    """Number of Adam updates so far, a scalar on the device; None before the first."""
    return next((state["step"] for state in engine.basic_optimizer.state.values()), None)


def init_optimizer_state(engine: DeepSpeedEngine, updates: Tensor, names: set[str]) -> None:
    """Create zero moments and the update count, to copy a saved optimizer state into.

    Without ZeRO a parameter that never had a gradient has no state: only parameters in ``names`` get one.
    """
    for parameter in _optimizer_tensors(engine, names):
        zeros = {moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in MOMENTS}
        count = updates.to(device=parameter.device, dtype=torch.float32).clone()
        engine.basic_optimizer.state[parameter] = {"step": count, **zeros}


def checkpoint_name(module_name: str) -> str:
    """Name in a checkpoint of the parameter that the train module calls ``module_name``."""
    prefix = next(prefix for prefix in NAME_PREFIXES if module_name.startswith(f"{prefix}."))
    return NAME_PREFIXES[prefix] + module_name.removeprefix(prefix)


def _optimizer_tensors(engine: DeepSpeedEngine, names: set[str]) -> list[Tensor]:
    """The tensors that Adam updates: parameters, or DeepSpeed's flat partitions of them."""
    if engine.zero_optimization_stage() == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    if engine.zero_optimization():
        return list(engine.optimizer.single_partition_of_fp32_groups)
    return [p for name, p in engine.module.named_parameters() if p.requires_grad and checkpoint_name(name) in names]


def _unsharded_shards(engine: DeepSpeedEngine, name: str, parameter: Any) -> Iterator[LocalShard]:
    """A tensor that every rank holds whole: each rank saves an equal slice."""
    shape, count = tuple(parameter.shape), parameter.numel()
    saved = slice(count * rank() // world_size(), count * (rank() + 1) // world_size())
    state = engine.basic_optimizer.state.get(parameter, {})
    yield LocalShard(name, shape, 0, parameter.data.view(-1), saved)
    for moment in MOMENTS:
        if moment in state:
            yield LocalShard(f"{moment}.{name}", shape, 0, state[moment].view(-1), saved)


def _replicated_shard(name: str, parameter: Any) -> LocalShard:
    """The whole parameter that ZeRO 1 and 2 compute with. Restored but not saved: its partitions are saved."""
    return LocalShard(name, tuple(parameter.shape), 0, parameter.data.view(-1), slice(0, 0))


def _zero12_shards(engine: DeepSpeedEngine, name: str, parameter: Any) -> Iterator[LocalShard]:
    mapping = parameter._hp_mapping
    shape, start = tuple(parameter.shape), mapping.lp_fragment_address.start
    saved = slice(0, mapping.hp_fragment_address.numel)
    yield _replicated_shard(name, parameter)
    yield LocalShard(name, shape, start, mapping.hp_fragment, saved)
    partition = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    state = engine.basic_optimizer.state.get(partition, {})
    for moment in MOMENTS:
        if moment in state:
            view = state[moment].narrow(0, mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel)
            yield LocalShard(f"{moment}.{name}", shape, start, view, saved)


def _zero3_shards(engine: DeepSpeedEngine, name: str, parameter: Any) -> Iterator[LocalShard]:
    shape, size = tuple(parameter.ds_shape), parameter.ds_tensor.numel()
    start = rank() * size
    count = min(max(prod(shape) - start, 0), size)
    saved = slice(0, count)
    yield LocalShard(name, shape, start, parameter.ds_tensor.data[:count], saved)
    if not parameter.requires_grad:
        return
    master = safe_get_local_fp32_param(parameter)
    if master.data_ptr() != parameter.ds_tensor.data_ptr():
        yield LocalShard(name, shape, start, master[:count], slice(0, 0))
    if engine.basic_optimizer.state:
        for moment in MOMENTS:
            view = safe_get_local_optimizer_state(parameter, moment)[:count]
            yield LocalShard(f"{moment}.{name}", shape, start, view, saved)
