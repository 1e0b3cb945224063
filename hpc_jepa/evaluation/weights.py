"""The encoders of a run: EMA target, student, and the one it started from."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_jepa.checkpoint import store, tensors
from hpc_jepa.checkpoint.store import Checkpoint
from hpc_jepa.config import tree
from hpc_jepa.config.benchmark import Weights
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.video_jepa import VideoJEPA


@dataclass(frozen=True)
class TrainedRun:
    """A run folder with its configuration and newest checkpoint."""

    folder: Path
    config: RunConfig
    checkpoint: Checkpoint


def open_run(folder: Path) -> TrainedRun:
    """Raises InputError where there is no run, CheckpointError where it has no usable checkpoint."""
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: not a run folder (it has no config.yaml); name one that 'hpc-jepa train' wrote")
    checkpoint = store.newest(folder)
    if checkpoint is None:
        raise CheckpointError(f"{folder}/checkpoints: no usable checkpoint; train the run first")
    return TrainedRun(folder, tree.load(RunConfig, [folder / "config.yaml"]), checkpoint)


def encoders(run: TrainedRun, names: Iterable[Weights], device: torch.device) -> dict[Weights, Encoder]:
    """Encoders in evaluation mode and fp32, by name.

    ``random_init`` is drawn from the run's seed as training draws it: the weights the run started from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        initial = VideoJEPA(run.config.model, run.config.engine.precision).student
    initial = initial.float().eval().requires_grad_(False)
    return {name: _load(initial, run.checkpoint, _stored(name, run.config)).to(device) for name in names}


def _stored(name: Weights, config: RunConfig) -> Weights:
    """Without EMA the stored target was never trained (B1): unless published semantics ask for it, read the student."""
    untrained = config.targets != "ema" and config.semantics.evaluated_weights == "trained"
    return "student" if name == "target" and untrained else name


def _load(initial: Encoder, checkpoint: Checkpoint, name: Weights) -> Encoder:
    encoder = copy.deepcopy(initial)
    if name == "random_init":
        return encoder
    try:
        encoder.load_state_dict(tensors.part(checkpoint, name))
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{checkpoint.path}: {name} does not fit the model of config.yaml: {fault}") from error
    return encoder
