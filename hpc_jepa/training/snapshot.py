"""Save a run into a committed checkpoint, and continue from one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import deepspeed
import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

import hpc_jepa
from hpc_jepa.checkpoint.store import WEIGHTS, Checkpoint, committing, folder, newest_sound, opened
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import from_main, is_main, world_size
from hpc_jepa.errors import CheckpointError, HpcJepaError
from hpc_jepa.training.processes import lost_peers_named

PARTS = {
    "model.student": "student",
    "model.target": "target",
    "model.predictor": "predictor",
    "objectives": "objectives",
}


def save(engine: DeepSpeedEngine, config: RunConfig, step: int, data_hashes: dict[str, str]) -> None:
    """Commit everything that decides the rest of the run, after ``step`` steps. Collective.

    Raises HpcJepaError where weights are not finite or the disk takes no more; earlier checkpoints stay as they are.
    """
    facts = {
        "config_fingerprint": config.fingerprint(),
        "world_size": world_size(),
        "zero_stage": config.engine.zero_stage,
        "data": data_hashes,
        "versions": {"hpc_jepa": hpc_jepa.__version__, "torch": torch.__version__, "deepspeed": deepspeed.__version__},
    }
    weights = _finite_weights(engine.module, step)
    commit = committing(config.folder, step, facts, config.checkpoint.keep)
    with _told_where(config.folder, step), lost_peers_named(), commit as partial:
        engine.save_checkpoint(str(partial / "engine"), tag="state", save_latest=False)
        if is_main():
            save_file(weights, partial / WEIGHTS)


def resume(engine: DeepSpeedEngine, config: RunConfig, data_hashes: dict[str, str]) -> int:
    """Continue from the newest undamaged checkpoint; the number of steps done, 0 for a new run. Collective.

    Raises CheckpointError when all are damaged, when it was saved by another number of processes, another ZeRO stage or
    on other data, or when the restored target is not what was saved.
    """
    sound = newest_sound(config.folder) if is_main() else None
    step = from_main(sound.step if sound else -1)
    if step < 0:
        return 0
    checkpoint = opened(folder(config.folder, step))
    _check_fits(checkpoint, config, data_hashes)
    engine.load_checkpoint(str(checkpoint.path / "engine"), tag="state")
    _check_target(engine, checkpoint)
    return step


def unsharded(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and full float32 values of all parameters, one gathered at a time; on the CPU. Collective at stage 3."""
    for name, parameter in module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            yield name, parameter.detach().float().cpu().clone()


def _finite_weights(module: nn.Module, step: int) -> dict[str, Tensor]:
    """All weights on rank 0, nothing elsewhere. Raises HpcJepaError, on all ranks alike, where one is not finite."""
    weights = {}
    for name, tensor in unsharded(module):
        if not tensor.isfinite().all():
            raise HpcJepaError(f"step {step}: {name} is not finite and was not saved; lower schedule.lr or use fp32")
        if is_main():
            weights[_public_name(name)] = tensor
    return weights


@contextmanager
def _told_where(run: Path, step: int) -> Iterator[None]:
    """torch and safetensors report a full disk each in a way of their own, without saying where."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise HpcJepaError(
            f"{run}: the checkpoint of step {step} cannot be written ({reason}); earlier ones are as they were: "
            "make room, then give the same command again"
        ) from error


def _public_name(name: str) -> str:
    for inside, outside in PARTS.items():
        if name.startswith(f"{inside}."):
            return outside + name.removeprefix(inside)
    raise KeyError(name)


def _check_fits(checkpoint: Checkpoint, config: RunConfig, data_hashes: dict[str, str]) -> None:
    here = {"world_size": world_size(), "zero_stage": config.engine.zero_stage}
    for what, value in here.items():
        saved = checkpoint.facts.get(what)
        if saved != value:
            raise CheckpointError(f"{checkpoint.path}: saved with {what} {saved}, not {value}; continue with the same")
    for source, digest in data_hashes.items():
        if checkpoint.facts["data"].get(source) != digest:
            raise CheckpointError(
                f"{checkpoint.path}: source '{source}' was rebuilt with other content since it was saved"
            )


def _check_target(engine: DeepSpeedEngine, checkpoint: Checkpoint) -> None:
    """The target is frozen, and loaders of optimizer state have been seen to forget frozen parameters silently."""
    saved = checkpoint.tensors("target")
    for name, tensor in unsharded(engine.module.model.target):
        if not torch.equal(tensor, saved[name]):
            raise CheckpointError(f"{Path(checkpoint.path)}: target weight {name} was not restored")
