"""A checkpoint that two processes at ZeRO stage 2 once saved in format 2 is read for ever."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import hpc_jepa
from hpc_jepa.checkpoint import inspect, layout, reader
from hpc_jepa.checkpoint.format_2 import upgrade_name
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.training.loop import train

FROZEN = Path(__file__).parents[1] / "golden" / "checkpoint_format_2"
CHECKPOINT = FROZEN / "checkpoints" / "step-00000004"


def test_its_facts_and_every_tensor_are_what_they_were():
    manifest = layout.open_checkpoint(CHECKPOINT).manifest
    assert (manifest.format, manifest.step, manifest.world_size, manifest.zero_stage) == (2, 4, 2, 2)
    assert inspect.verify_checkpoint(CHECKPOINT) == []
    recorded = {upgrade_name(name): x for name, x in json.loads((FROZEN / "expected.json").read_text()).items()}
    stored = reader.open_tensors(CHECKPOINT)
    sums = {name: x.double().sum().item() for name, x in stored.items() if not name.startswith("random")}
    assert sums == pytest.approx(recorded, rel=1e-9, abs=1e-12)
    assert stored["updates"] == 4


def test_its_encoder_gives_the_recorded_features():
    arrays = np.load(FROZEN / "expected.npz")
    tokens = hpc_jepa.load_encoder(FROZEN)(torch.from_numpy(arrays["clip"]))
    torch.testing.assert_close(tokens, torch.from_numpy(arrays["tokens"]), rtol=0, atol=1e-5)


def test_its_run_goes_on(motion_shards, tmp_path):
    """On other shards than it was trained with, which must be said."""
    where = [
        f"runs={tmp_path}",
        f"data.sources.motion8.shards={motion_shards / 'unlabelled'}",
        "schedule.steps=5",
        "checkpoint.accept=[data, schedule.steps]",
    ]
    config = read_config(RunConfig, [FROZEN / "config.yaml"], where)
    shutil.copytree(FROZEN, config.folder)
    assert train(config, lambda line: None) == "done"
    newest = layout.latest(config.folder)
    assert newest.step == 5 and reader.open_tensors(newest.path)["updates"] == 5
