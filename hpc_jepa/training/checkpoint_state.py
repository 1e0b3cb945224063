"""What decides the rest of a run, into a checkpoint and back: on any number of processes, at any ZeRO stage."""

import time
from collections.abc import Iterator

import deepspeed
import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor, nn

import hpc_jepa
from hpc_jepa.checkpoint.encoders import saved_config
from hpc_jepa.checkpoint.layout import (
    Checkpoint,
    CheckpointInfo,
    latest_valid,
    open_checkpoint,
    remove_partial,
)
from hpc_jepa.checkpoint.rank_file import TensorShard
from hpc_jepa.checkpoint.reader import TensorReader
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import broadcast_int, is_main, rank, world_size
from hpc_jepa.errors import CheckpointError
from hpc_jepa.io.revision import code_revision
from hpc_jepa.runs.acquire import unaccepted_changes
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.zero_state import checkpoint_name, init_optimizer_state, local_shards, optimizer_updates

UPDATES = "updates"


def checkpoint_info(
    config: RunConfig, step: int, data_hashes: dict[str, str], metrics: dict[str, float]
) -> CheckpointInfo:
    """What the checkpoint of ``step`` says about itself."""
    return CheckpointInfo(
        step=step,
        time=time.time(),
        world_size=world_size(),
        zero_stage=config.engine.zero_stage,
        fingerprint=config.fingerprint(),
        config=config.model_dump(mode="json"),
        versions={
            "hpc_jepa": hpc_jepa.__version__,
            "commit": code_revision(),
            "torch": torch.__version__,
            "deepspeed": deepspeed.__version__,
        },
        data_hashes=data_hashes,
        metrics=metrics,
    )


def shards_to_save(engine: DeepSpeedEngine) -> list[TensorShard]:
    """What this process saves: views of its state, as it is until the next step, and its random state."""
    own = [part.to_save for part in local_shards(engine) if part.saved_slice.start < part.saved_slice.stop]
    done = optimizer_updates(engine)
    if done is not None and is_main():
        own.append(TensorShard(UPDATES, (), 0, done.view(1)))
    return own + [TensorShard(name, tuple(state.shape), 0, state) for name, state in _random_states().items()]


def resume_from_checkpoint(engine: DeepSpeedEngine, config: RunConfig, data_hashes: dict[str, str]) -> int:
    """Continue from the newest undamaged checkpoint; the number of steps done, 0 for a new run. Collective.

    Raises CheckpointError when all are damaged, or when it was saved on other data or with other settings than
    ``checkpoint.accept`` allows.
    """
    if is_main():
        remove_partial(config.folder)
    sound = latest_valid(config.folder) if is_main() else None
    step = broadcast_int(sound.step if sound else -1)
    if step < 0:
        return 0
    checkpoint = open_checkpoint(RunDir(config.folder).checkpoint_dir(step))
    _check_fits(checkpoint, config, data_hashes)
    restore(engine, checkpoint)
    return step


@torch.no_grad()
def restore(engine: DeepSpeedEngine, checkpoint: Checkpoint) -> None:
    """Make weights, target, optimizer and random state what they were. Nothing is exchanged between processes.

    Raises CheckpointError when names or shapes of the weights are not those of the run.
    """
    stored = TensorReader(checkpoint)
    _check_names(engine.module, checkpoint, stored)
    if UPDATES in stored:
        with_state = {name.removeprefix("exp_avg.") for name in stored if name.startswith("exp_avg.")}
        init_optimizer_state(engine, stored[UPDATES], with_state)
    for part in local_shards(engine):
        if part.name in stored:  # moments of a parameter that never had a gradient begin at zero
            part.view.copy_(stored.read_slice(part.name, part.start, part.start + len(part.view)))
    if checkpoint.manifest.world_size == world_size():
        _set_random_states(stored)


def unsharded(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and full float32 values of all parameters, one gathered at a time; on the CPU. Collective at stage 3."""
    for name, parameter in module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            yield name, parameter.detach().float().cpu().clone()


def _random_states() -> dict[str, Tensor]:
    """Masks, crops and order depend on the step alone; what a layer may draw itself depends on these."""
    states = {f"random.cpu.{rank()}": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"random.cuda.{rank()}"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(stored: TensorReader) -> None:
    torch.set_rng_state(stored[f"random.cpu.{rank()}"])
    if torch.cuda.is_available() and f"random.cuda.{rank()}" in stored:
        torch.cuda.set_rng_state(stored[f"random.cuda.{rank()}"])


def _check_fits(checkpoint: Checkpoint, config: RunConfig, data_hashes: dict[str, str]) -> None:
    changed = unaccepted_changes(saved_config(checkpoint), config)
    if changed:
        raise CheckpointError(f"{checkpoint.path}: saved with other settings ({changed}); choose another study=")
    for source, digest in data_hashes.items():
        same = checkpoint.manifest.data_hashes.get(source) == digest
        if not same and not config.checkpoint.accepts(f"data.sources.{source}"):
            raise CheckpointError(
                f"{checkpoint.path}: source '{source}' was rebuilt with other content since it was saved; "
                f"if that is meant: checkpoint.accept=[data.sources.{source}]"
            )


def _check_names(module: nn.Module, checkpoint: Checkpoint, stored: TensorReader) -> None:
    """Frozen weights too: loaders of optimizer state have been seen to forget the target silently."""
    for inside, parameter in module.named_parameters():
        name, shape = checkpoint_name(inside), tuple(getattr(parameter, "ds_shape", parameter.shape))
        if name not in stored or stored.shape(name) != shape:
            raise CheckpointError(f"{checkpoint.path}: holds no {name} of shape {shape}; the model is another one")
