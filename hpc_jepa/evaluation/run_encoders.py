"""Encoders of a run: EMA target, student, and the random initialisation."""

from collections.abc import Iterable

import torch

from hpc_jepa.checkpoint.layout import Checkpoint
from hpc_jepa.checkpoint.reader import read_encoder
from hpc_jepa.config.benchmark import Weights
from hpc_jepa.config.run import RunConfig
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.video_jepa import VideoJEPA


def load_run_encoders(
    config: RunConfig, checkpoint: Checkpoint, names: Iterable[Weights], device: torch.device
) -> dict[Weights, Encoder]:
    """Encoders by name, in evaluation mode and fp32; ``random_init`` is the initialisation of the run."""
    return {name: _load_encoder(config, checkpoint, name).to(device) for name in names}


def _load_encoder(config: RunConfig, checkpoint: Checkpoint, name: Weights) -> Encoder:
    if name == "random_init":
        return _initial_encoder(config)
    return read_encoder(checkpoint, "student" if name == "student" else "target")


def _initial_encoder(config: RunConfig) -> Encoder:
    """Initialised from the run's seed as in training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        student = VideoJEPA(config.model, config.engine.precision).student
    return student.float().eval().requires_grad_(False)
