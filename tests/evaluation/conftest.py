"""Features with a class signal, labelled shards, and a run folder with real weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_jepa.checkpoint.rank_file import TensorShard
from hpc_jepa.checkpoint.writer import CheckpointWriter
from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.training import CheckpointConfig
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.motion8 import Motion8
from hpc_jepa.data.sources.source import Sample
from hpc_jepa.evaluation.frozen_features import FrozenFeatures, pool
from hpc_jepa.models.video_jepa import VideoJEPA
from hpc_jepa.training.checkpoint_state import checkpoint_info

CLASSES = 8
SIDE, FRAMES = 32, 8


def features(seed: int, clips: int, tokens=16, width=32, signal=1.0, classes=4) -> FrozenFeatures:
    """One token of each clip encodes its class; every channel has its own offset and scale."""
    rng = np.random.default_rng(seed)
    codes = np.random.default_rng(99).normal(size=(classes, width))
    labels = np.arange(clips) % classes
    x = rng.normal(size=(clips, tokens, width))
    x[np.arange(clips), rng.integers(tokens, size=clips)] += signal * codes[labels]
    x = x * np.linspace(0.5, 3, width) + np.linspace(-2, 2, width)
    return FrozenFeatures(x.astype(np.float32), labels, np.arange(clips), tubelets=4)


@pytest.fixture
def make_features():
    return features


@pytest.fixture
def pooled():
    """Features in memory -> their means over all tokens, or over those of each tubelet."""

    def means(found: FrozenFeatures, pooling: str) -> FrozenFeatures:
        return replace(found, tokens=pool(torch.from_numpy(found.tokens), pooling, found.tubelets).numpy())

    return means


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """48 train and 16 test clips of 32 pixels, labels 0-7, and 8 without labels."""
    root = tmp_path_factory.mktemp("shards")
    splits = {"train": (0, 48), "test": (48, 16), "unlabelled": (0, 8)}
    for split, (first, count) in splits.items():
        source = Motion8(split, first, count, size=SIDE, frames=FRAMES)
        build_shards(source, root / split, make_recipe(source, 32), 0, lambda done: None)
    return root


@dataclass(frozen=True)
class CutClips(Motion8):
    """Clips of which every two neighbours of one class come from one video, or none says so."""

    named: bool = True

    independent = False

    @property
    def settings(self) -> Mapping:
        return {"named": self.named}

    def load(self, index: int) -> Sample:
        number = self.first + index
        cluster = f"video {number % 8}/{number // 16}" if self.named else None
        return replace(super().load(index), cluster=cluster)


@pytest.fixture(scope="session")
def cut_shards(tmp_path_factory):
    """48 train and 16 test clips with and without clusters: ``True``, ``False``; clips as in ``shards``.

    ``shifted``: test clips of videos that are in the training split.
    """
    root = tmp_path_factory.mktemp("cut")
    clips = {"train": (0, 48), "test": (48, 16)}
    parts = [(str(named), split, *clips[split], named) for named in (True, False) for split in clips]
    for folder, split, first, count, named in (*parts, ("shifted", "test", 40, 16, True)):
        source = CutClips(split, first, count, size=SIDE, frames=FRAMES, named=named)
        recipe = make_recipe(source, 32).model_copy(update={"shuffle_seed": 5})
        build_shards(source, root / folder / split, recipe, 0, lambda done: None)
    return root


@pytest.fixture
def benchmark(shards) -> BenchmarkConfig:
    protocol = {
        "train": shards / "train",
        "test": shards / "test",
        "clip": {"frames": FRAMES, "sampling": "leading", "stride": 1, "size": SIDE},
        "probes": {
            "linear": {"kind": "logistic"},
            "attentive": {"kind": "attentive", "pooling": "tokens", "heads": 4, "updates": 5, "batch_size": 16},
        },
        "probe_seeds": (0, 1),
        "batch_size": 10,
    }
    values = {"name": "tiny8", "title": "Tiny", "classes": CLASSES, "protocols": {"standard": protocol}}
    return BenchmarkConfig.model_validate(values)


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """A run of seed 3 whose student, target and initialisation all differ."""
    config = RunConfig.model_validate(
        {
            "study": "demo",
            "regime": "tiny",
            "seed": 3,
            "runs": tmp_path / "runs",
            "model": {
                "encoder": {"width": 32, "depth": 2, "heads": 1, "patch": 8, "levels": (1, 2)},
                "predictor": {"width": 32, "depth": 1, "heads": 1},
            },
            "data": {"sources": {"motion8": {"shards": "unused"}}, "clip": {"frames": FRAMES, "size": SIDE}},
            "schedule": {"steps": 20},
        }
    )
    config.folder.mkdir(parents=True)
    (config.folder / "config.yaml").write_text(loading.dump_config(config))
    (config.folder / "state.json").write_text(json.dumps({"state": "done", "step": 20, "steps": 20}))
    save_checkpoint(config, step=20)
    return config.folder


def save_checkpoint(config: RunConfig, step: int) -> None:
    torch.manual_seed(config.seed)
    model = VideoJEPA(config.model, config.engine.precision)
    for number, part in enumerate((model.student, model.target), start=1):
        for parameter in part.parameters():
            parameter.data += 0.02 * number * torch.randn_like(parameter)
    weights = [TensorShard(name, tuple(w.shape), 0, w.flatten()) for name, w in model.state_dict().items()]
    with CheckpointWriter(config.folder, CheckpointConfig(keep=1)) as writer:
        writer.save(checkpoint_info(config, step, {}, {}), weights)


@pytest.fixture
def save():
    return save_checkpoint
