"""The encoders of a run: EMA target, student, and the one it started from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_jepa.checkpoint import layout
from hpc_jepa.checkpoint.layout import Checkpoint
from hpc_jepa.checkpoint.reader import read_encoder
from hpc_jepa.config.benchmark import Weights
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import CheckpointError
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.video_jepa import VideoJEPA
from hpc_jepa.runs.run_dir import open_run


@dataclass(frozen=True)
class TrainedRun:
    """A run folder with its configuration and newest checkpoint."""

    folder: Path
    config: RunConfig
    checkpoint: Checkpoint


def open_trained_run(folder: Path) -> TrainedRun:
    """Raises InputError where there is no run, CheckpointError where it has no usable checkpoint."""
    config = open_run(folder).config
    checkpoint = layout.latest(folder)
    if checkpoint is None:
        raise CheckpointError(f"{folder}: no usable checkpoint; train the run first")
    return TrainedRun(folder, config, checkpoint)


def load_run_encoders(run: TrainedRun, names: Iterable[Weights], device: torch.device) -> dict[Weights, Encoder]:
    """Encoders in evaluation mode and fp32, by name; ``random_init`` is the one the run started from."""
    return {name: _load_encoder(run, name).to(device) for name in names}


def _load_encoder(run: TrainedRun, name: Weights) -> Encoder:
    if name == "random_init":
        return _initial_encoder(run.config)
    return read_encoder(run.checkpoint, "student" if name == "student" else "target")


def _initial_encoder(config: RunConfig) -> Encoder:
    """Drawn from the run's seed as training draws it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        student = VideoJEPA(config.model, config.engine.precision).student
    return student.float().eval().requires_grad_(False)
