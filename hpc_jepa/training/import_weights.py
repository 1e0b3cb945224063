"""A run without training: weights from elsewhere in a run folder, to be evaluated and reported beside others."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from hpc_jepa.checkpoint import layout, rank_file
from hpc_jepa.checkpoint.pretrained import PretrainedEncoder
from hpc_jepa.checkpoint.rank_file import TensorShard
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.runs.acquire import acquire_run_dir
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.training.checkpoint_state import checkpoint_info
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.training.zero_state import checkpoint_name

SHARE = "weights-0000.safetensors"


def import_config(files: PretrainedEncoder, layers: Sequence[str], overrides: Sequence[str]) -> RunConfig:
    """The configuration of a run of no steps with the architecture of ``files``. Raises InputError."""
    architecture = files.weights.config.model_dump(mode="json")
    settings = [f"model.encoder.{name}={json.dumps(value)}" for name, value in architecture.items()]
    return read_config(RunConfig, layers, [*overrides, *settings, "schedule.steps=0"])


def import_weights(files: PretrainedEncoder, config: RunConfig) -> Path:
    """Make the run folder of ``config`` with the encoder as student and target; its path.

    Predictor and heads are those that a run of this seed would begin with, so that the run may also be trained on.
    Raises InputError where a run is there.
    """
    if RunDir(config.folder).checkpoint_dirs():
        raise InputError(f"{config.folder}: holds a run already; choose another study= or variant=")
    train_module = build_train_module(config)
    for part in (train_module.model.student, train_module.model.target):
        part.load_state_dict(files.encoder().state_dict())
    named = {checkpoint_name(name): parameter.detach().float() for name, parameter in train_module.named_parameters()}
    named["random.cpu.0"] = torch.get_rng_state()
    pieces = [TensorShard(name, tuple(x.shape), 0, x.flatten()) for name, x in named.items()]
    about = checkpoint_info(config, 0, {}, {}).model_copy(update={"world_size": 1})
    run = config.folder
    with acquire_run_dir(config):
        layout.create_partial(run, 0)
        written = rank_file.write_rank_file(layout.partial_dir(run, 0) / SHARE, pieces)
        layout.commit_checkpoint(run, about, {piece.name: piece.shape for piece in pieces}, {SHARE: written})
        write_state(RunDir(run).state_file, RunState(state="done", step=0, steps=0))
    return run
