"""Save and restore the training state, on any number of ranks and at any ZeRO stage."""

import logging
import time
from collections.abc import Mapping

import deepspeed
import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor, nn

import hpc_jepa
from hpc_jepa.checkpoint.layout import Checkpoint, CheckpointInfo, latest_valid, open_checkpoint, remove_partial
from hpc_jepa.checkpoint.rank_file import TensorShard
from hpc_jepa.checkpoint.reader import TensorReader
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import broadcast_int, is_main, rank, world_size
from hpc_jepa.errors import CheckpointError
from hpc_jepa.io.revision import code_revision
from hpc_jepa.runs.acquire import unaccepted_changes
from hpc_jepa.runs.origin import write_origin
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.start import FROM_SEED, Start, StartTensors
from hpc_jepa.training.zero_state import checkpoint_name, init_optimizer_state, local_shards, optimizer_updates

LOG = logging.getLogger(__name__)
UPDATES = "updates"
LOSS_SCALE = "loss_scale"


def software_versions() -> dict[str, str]:
    """Versions of what computes the numbers of a run."""
    return {
        "hpc_jepa": hpc_jepa.__version__,
        "commit": code_revision(),
        "torch": torch.__version__,
        "deepspeed": deepspeed.__version__,
    }


def checkpoint_info(
    config: RunConfig, step: int, data_hashes: dict[str, str], metrics: dict[str, float]
) -> CheckpointInfo:
    """Metadata of the checkpoint after ``step`` steps."""
    return CheckpointInfo(
        step=step,
        time=time.time(),
        world_size=world_size(),
        zero_stage=config.engine.zero_stage,
        fingerprint=config.fingerprint(),
        config=config.model_dump(mode="json"),
        versions=software_versions(),
        data_hashes=data_hashes,
        metrics=metrics,
    )


def shards_to_save(engine: DeepSpeedEngine) -> list[TensorShard]:
    """The shards that this rank saves: views of its state, valid until the next step, and its random state."""
    own = [shard.to_save for shard in local_shards(engine) if shard.saved_slice.start < shard.saved_slice.stop]
    updates = optimizer_updates(engine)
    if updates is not None and is_main():
        own.append(TensorShard(UPDATES, (), 0, updates.view(1)))
    if engine.loss_scaler is not None and is_main():
        own.append(TensorShard(LOSS_SCALE, (2,), 0, engine.loss_scaler.state))
    return own + [TensorShard(name, tuple(state.shape), 0, state) for name, state in _random_states().items()]


def resume_from_checkpoint(
    engine: DeepSpeedEngine, config: RunConfig, data_hashes: dict[str, str], start: Start = FROM_SEED
) -> int:
    """Load the latest valid checkpoint; returns the number of steps done. A new run begins at ``start``. Collective.

    Raises CheckpointError if all checkpoints are damaged, or if the data or settings differ from those at the save in
    more than ``checkpoint.accept`` allows.
    """
    if is_main():
        remove_partial(config.folder)
    latest = latest_valid(config.folder) if is_main() else None
    step = broadcast_int(latest.step if latest else -1)
    if step < 0:
        _begin(engine, config, start)
        return start.step
    checkpoint = open_checkpoint(RunDir(config.folder).checkpoint_dir(step))
    _check_settings(checkpoint, config, data_hashes)
    restore(engine, checkpoint)
    if is_main() and step < config.schedule.steps:
        LOG.info("%s: resuming after step %d", config.folder, step)
        _warn_other_software(checkpoint)
    return step


@torch.no_grad()
def restore(engine: DeepSpeedEngine, checkpoint: Checkpoint) -> None:
    """Load weights, target, optimizer and random state. Each rank reads its own shards; no communication.

    Raises CheckpointError if names or shapes of the weights differ from those of the model.
    """
    stored = TensorReader(checkpoint)
    _check_parameters(engine.module, checkpoint, stored)
    _copy_into(engine, stored)
    if checkpoint.manifest.world_size == world_size():
        _set_random_states(stored)


@torch.no_grad()
def _begin(engine: DeepSpeedEngine, config: RunConfig, start: Start) -> None:
    """Give a new run the weights, and the moments of the optimizer, that it begins with, and record their origin."""
    if start.origin is None or start.tensors is None:
        return
    _copy_into(engine, start.tensors, start.moments)
    if start.moments and f"random.cpu.{rank()}" in start.tensors:
        _set_random_states(start.tensors)
    if is_main():
        write_origin(RunDir(config.folder).origin_file, start.origin)
        LOG.info("%s: begins with %s", config.folder, start.origin.summary)
        if start.origin.drawn:
            LOG.info("initialised from the seed: %s", ", ".join(start.origin.drawn))


def _copy_into(engine: DeepSpeedEngine, stored: TensorReader | StartTensors, moments: bool = True) -> None:
    """Copy the stored tensors into this rank's shards; others keep their values."""
    if moments and UPDATES in stored:
        with_state = {name.removeprefix("exp_avg.") for name in stored if name.startswith("exp_avg.")}
        init_optimizer_state(engine, stored[UPDATES], with_state)
    if moments and LOSS_SCALE in stored and engine.loss_scaler is not None:
        engine.loss_scaler.state.copy_(stored[LOSS_SCALE])
    for shard in local_shards(engine):
        if shard.name in stored:  # no moments are stored for a parameter that never had a gradient
            shard.view.copy_(stored.read_slice(shard.name, shard.start, shard.start + len(shard.view)))


def _random_states() -> dict[str, Tensor]:
    """Generators that layers may use. Masks, crops and sample order depend on the step alone."""
    states = {f"random.cpu.{rank()}": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"random.cuda.{rank()}"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(stored: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(stored[f"random.cpu.{rank()}"])
    if torch.cuda.is_available() and f"random.cuda.{rank()}" in stored:
        torch.cuda.set_rng_state(stored[f"random.cuda.{rank()}"])


def _check_settings(checkpoint: Checkpoint, config: RunConfig, data_hashes: dict[str, str]) -> None:
    changed = unaccepted_changes(checkpoint.config, config)
    if changed:
        raise CheckpointError(f"{checkpoint.path}: saved with other settings ({changed}); choose another study=")
    for source, digest in data_hashes.items():
        same = checkpoint.manifest.data_hashes.get(source) == digest
        if not same and not config.checkpoint.accepts(f"data.sources.{source}"):
            raise CheckpointError(
                f"{checkpoint.path}: the shards of source '{source}' have changed since it was saved; "
                f"to continue anyway, set checkpoint.accept=[data.sources.{source}]"
            )


def _warn_other_software(checkpoint: Checkpoint) -> None:
    """A resumed run equals an undisturbed one to the bit only if the same software computes both."""
    now, before = software_versions(), checkpoint.manifest.versions
    changed = [f"{name} {before[name]} -> {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        LOG.warning(
            "%s: saved by other software (%s): numbers may differ from those of an undisturbed run",
            checkpoint.path, ", ".join(changed),
        )  # fmt: skip


def _check_parameters(module: nn.Module, checkpoint: Checkpoint, stored: TensorReader) -> None:
    """Check frozen parameters too: a loader of optimizer state alone would silently skip the target."""
    for module_name, parameter in module.named_parameters():
        name, shape = checkpoint_name(module_name), tuple(getattr(parameter, "ds_shape", parameter.shape))
        if name not in stored or stored.shape(name) != shape:
            raise CheckpointError(
                f"{checkpoint.path}: missing tensor {name} with shape {shape}: saved from a different model; "
                "use its model settings, or choose another study="
            )
