"""Checkpoints of one small tensor and runs with random weights, without training."""

import importlib
import time

import pytest
import torch

from hpc_jepa.checkpoint.layout import CHECKSUM_PLACEHOLDER, CheckpointInfo, latest
from hpc_jepa.checkpoint.rank_file import TensorShard
from hpc_jepa.checkpoint.writer import CheckpointWriter
from hpc_jepa.config.loading import dump_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.training import CheckpointConfig
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.training.zero_state import checkpoint_name

SIZE = 5000


def info_of(step, **changes):
    known = {"step": step, "time": 0.0, "world_size": 1, "zero_stage": 1, "fingerprint": "f", "config": {}}
    return CheckpointInfo.model_validate(known | {"versions": {}, "data_hashes": {}, "metrics": {}} | changes)


def shards_of(step):
    weights = torch.full((SIZE,), float(step))
    return [TensorShard("student.w", (50, 100), 0, weights), TensorShard("exp_avg.student.w", (50, 100), 0, -weights)]


@pytest.fixture
def save():
    """``save(run, step, info={}, **policy)`` commits a checkpoint whose weights equal the step."""

    def run(folder, step, info=None, **policy):
        with CheckpointWriter(folder, CheckpointConfig(**policy)) as writer:
            writer.save(info_of(step, **(info or {})), shards_of(step))

    return run


@pytest.fixture
def info():
    return info_of


@pytest.fixture
def shards():
    return shards_of


@pytest.fixture(scope="session")
def save_run():
    """``save_run(runs, **settings)`` creates a run folder with random weights and returns its configuration."""

    def make(runs, step=7, world_size=1, **settings):
        known = {
            "study": "hand",
            "regime": "made",
            "seed": 3,
            "runs": str(runs),
            "model": {
                "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                "predictor": {"width": 16, "depth": 1, "heads": 2},
            },
            "data": {"sources": {"none": {"shards": "none"}}, "clip": {"frames": 4, "size": 32}},
            "objectives": ["fwm", {"ld": {"hidden": 8}}],
            "schedule": {"steps": 10},
        }
        config = RunConfig.model_validate(known | settings)
        train_module = build_train_module(config)
        draws = torch.Generator().manual_seed(step)
        for parameter in train_module.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=draws)
        shards = [
            TensorShard(checkpoint_name(name), tuple(parameter.shape), 0, parameter.data.flatten())
            for name, parameter in train_module.named_parameters()
        ]
        shards.append(TensorShard("random.cpu.0", tuple(torch.get_rng_state().shape), 0, torch.get_rng_state()))
        config.folder.mkdir(parents=True, exist_ok=True)
        (config.folder / "config.yaml").write_text(dump_config(config))
        info = info_of(
            step,
            time=time.time(),
            world_size=world_size,
            fingerprint=config.fingerprint(),
            config=config.model_dump(mode="json"),
            versions={"hpc_jepa": "0.1.0"},
            data_hashes={"none": "digest-of-none"},
            metrics={"loss": 0.5},
        )
        with CheckpointWriter(config.folder, CheckpointConfig(keep=9)) as writer:
            writer.save(info, shards)
        return config

    return make


@pytest.fixture
def edit_config():
    """``edit_config(run, change)`` changes the configuration in the latest manifest until the test ends."""
    before = {}

    def edit(run, change):
        checkpoint = latest(run)
        path = checkpoint.path / "manifest.json"
        before.setdefault(path, path.read_bytes())
        config = checkpoint.manifest.model_dump(mode="json")["config"]
        change(config)
        update = {"config": config, "checksum": CHECKSUM_PLACEHOLDER}
        path.write_bytes(checkpoint.manifest.model_copy(update=update).to_bytes())

    yield edit
    for path, content in before.items():
        path.write_bytes(content)


@pytest.fixture(scope="session")
def transformers(torchvision_operators):
    """The transformers library."""
    return importlib.import_module("transformers")
