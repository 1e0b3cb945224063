"""Checkpoints of released formats (2: release 0.1, 3: release 0.2; two processes, ZeRO stage 2) can always be read."""

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

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=[2, 3])
def number(request):
    """The number of the format."""
    return request.param


@pytest.fixture
def frozen(number):
    """A run folder with one checkpoint, and what was read from it when it was saved."""
    return GOLDEN / f"checkpoint_format_{number}"


def test_its_metadata_and_tensors_are_unchanged(frozen, number):
    checkpoint = frozen / "checkpoints" / "step-00000004"
    manifest = layout.open_checkpoint(checkpoint).manifest
    assert (manifest.format, manifest.step, manifest.world_size, manifest.zero_stage) == (number, 4, 2, 2)
    assert inspect.verify_checkpoint(checkpoint) == []
    recorded = json.loads((frozen / "expected.json").read_text())
    if number == 2:
        recorded = {upgrade_name(name): x for name, x in recorded.items()}
    stored = reader.open_tensors(checkpoint)
    sums = {name: x.double().sum().item() for name, x in stored.items() if not name.startswith("random")}
    assert sums == pytest.approx(recorded, rel=1e-9, abs=1e-12)
    assert stored["updates"] == 4


def test_its_encoder_gives_the_recorded_features(frozen):
    arrays = np.load(frozen / "expected.npz")
    tokens = hpc_jepa.load_encoder(frozen)(torch.from_numpy(arrays["clip"]), normalise=False)
    torch.testing.assert_close(tokens, torch.from_numpy(arrays["tokens"]), rtol=0, atol=1e-5)


def test_objective_heads_have_the_same_names(save_run, tmp_path):
    """``format_2`` renames encoder and predictor alone."""
    run = save_run(tmp_path, objectives=["ld", "ac", "hamiltonian"]).folder
    heads = {name.removesuffix(".weight") for name in layout.latest(run).manifest.shapes if "objectives" in name}
    modules = {"ld.head": (0, 2), "ac.head": (0, 2), "hamiltonian.energy": (0, 2, 4)}
    expected = {f"objectives.auxiliary.{head}.{layer}" for head, layers in modules.items() for layer in layers}
    assert {name for name in heads if not name.endswith(".bias")} == expected
    assert all(upgrade_name(name) == name for name in heads)


def test_its_run_can_be_resumed(frozen, motion_shards, tmp_path):
    """With other shards than before, which must be accepted explicitly."""
    where = [
        f"runs={tmp_path}",
        f"data.sources.motion8.shards={motion_shards / 'unlabelled'}",
        "schedule.steps=5",
        "checkpoint.accept=[data, schedule.steps]",
    ]
    config = read_config(RunConfig, [frozen / "config.yaml"], where)
    shutil.copytree(frozen, config.folder)
    assert train(config, lambda line: None) == "done"
    newest = layout.latest(config.folder)
    assert newest.step == 5 and reader.open_tensors(newest.path)["updates"] == 5
