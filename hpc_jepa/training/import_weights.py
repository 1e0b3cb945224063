"""Import pretrained weights as a run of zero steps, so that they are evaluated and reported like other runs."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from hpc_jepa.checkpoint.pretrained import PretrainedEncoder
from hpc_jepa.checkpoint.rank_file import TensorShard
from hpc_jepa.checkpoint.writer import CheckpointWriter
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.runs.acquire import acquire_run_dir
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.training.checkpoint_state import checkpoint_info
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.training.zero_state import checkpoint_name


def import_config(files: PretrainedEncoder, layers: Sequence[str], overrides: Sequence[str]) -> RunConfig:
    """Configuration of a run of zero steps with the architecture of ``files``. Raises InputError if it is invalid."""
    architecture = files.weights.config.model_dump(mode="json")
    settings = [f"model.encoder.{name}={json.dumps(value)}" for name, value in architecture.items()]
    return read_config(RunConfig, layers, [*overrides, *settings, "schedule.steps=0"])


def import_weights(files: PretrainedEncoder, config: RunConfig) -> Path:
    """Create the run folder of ``config`` with the encoder as student and target; returns its path.

    Predictor and heads are initialised from the seed of the run, so that it can also be trained further.
    Raises InputError if the folder already has checkpoints.
    """
    run = RunDir(config.folder)
    if run.checkpoint_dirs():
        raise InputError(f"{run}: already has checkpoints; choose another study= or variant=")
    train_module = build_train_module(config)
    for encoder in (train_module.model.student, train_module.model.target):
        encoder.load_state_dict(files.encoder().state_dict())
    named = {checkpoint_name(name): parameter.detach().float() for name, parameter in train_module.named_parameters()}
    named["random.cpu.0"] = torch.get_rng_state()
    shards = [TensorShard(name, tuple(x.shape), 0, x.flatten()) for name, x in named.items()]
    info = checkpoint_info(config, 0, {}, {}).model_copy(update={"world_size": 1})
    with acquire_run_dir(config) as check_lease:
        with CheckpointWriter(run.path, config.checkpoint, check_lease) as writer:
            writer.save(info, shards)
        write_state(run.state_file, RunState(state="done", step=0, steps=0))
    return run.path
