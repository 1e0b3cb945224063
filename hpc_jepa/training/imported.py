"""A run without training: weights from elsewhere in a run folder, to be evaluated and reported beside others."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from hpc_jepa.checkpoint import shard, store
from hpc_jepa.checkpoint.portable import Portable
from hpc_jepa.checkpoint.shard import Piece
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.tree import load
from hpc_jepa.errors import InputError
from hpc_jepa.training.pieces import public_name
from hpc_jepa.training.run_folder import claimed
from hpc_jepa.training.run_state import write_state
from hpc_jepa.training.snapshot import facts
from hpc_jepa.training.trainee import build_trainee

SHARE = "weights-0000.safetensors"


def imported_config(files: Portable, layers: Sequence[str], overrides: Sequence[str]) -> RunConfig:
    """The configuration of a run of no steps with the architecture of ``files``. Raises InputError."""
    architecture = files.found.config.model_dump(mode="json")
    settings = [f"model.encoder.{name}={json.dumps(value)}" for name, value in architecture.items()]
    return load(RunConfig, layers, [*overrides, *settings, "schedule.steps=0"])


def import_run(files: Portable, config: RunConfig) -> Path:
    """Make the run folder of ``config`` with the encoder as student and target; its path.

    Predictor and heads are those that a run of this seed would begin with, so that the run may also be trained on.
    Raises InputError where a run is there.
    """
    if store.folders(config.folder):
        raise InputError(f"{config.folder}: holds a run already; choose another study= or variant=")
    trainee = build_trainee(config)
    for part in (trainee.model.student, trainee.model.target):
        part.load_state_dict(files.encoder().state_dict())
    named = {public_name(name): parameter.detach().float() for name, parameter in trainee.named_parameters()}
    named["random.cpu.0"] = torch.get_rng_state()
    pieces = [Piece(name, tuple(x.shape), 0, x.flatten()) for name, x in named.items()]
    about = facts(config, 0, {}, {}).model_copy(update={"world_size": 1})
    run = config.folder
    with claimed(config):
        store.prepare(run, 0)
        written = shard.write(store.draft(run, 0) / SHARE, pieces)
        store.commit(run, about, {piece.name: piece.shape for piece in pieces}, {SHARE: written})
        write_state(run, "done", 0, 0)
    return run
