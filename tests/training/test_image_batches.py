"""Runs on videos and batches of images: the same at every ZeRO stage, and taken up again as if never stopped."""

import io
import json
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.source import EncodedFile, Sample, SampleOrigin
from hpc_jepa.training.loop import train

STEPS = 8


class Pictures:
    """A source of twelve JPEG files."""

    dataset, split, classes = "pictures", "train", ()
    settings: ClassVar[dict[str, str]] = {}

    def __len__(self) -> int:
        return 12

    def origin(self, index: int) -> SampleOrigin:
        return SampleOrigin(f"picture-{index}", f"picture {index}")

    def load(self, index: int) -> Sample:
        coarse = np.random.default_rng(index).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse.repeat(8, 0).repeat(8, 1)).save(file, "JPEG")
        return Sample(EncodedFile(file.getvalue()))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "train"
    source = Pictures()
    build_shards(source, folder, make_recipe(source, 10), 0, lambda samples: None)
    return folder


@pytest.fixture
def figures(motion_shards, pictures, tmp_path):
    """Train a tiny model at a stage; the loss and number of terms that are not 0, step by step."""

    def run(stage, images):
        config = RunConfig.model_validate(
            {
                "regime": "test",
                "study": f"stage-{stage}-{images}",
                "runs": str(tmp_path / "runs"),
                "model": {
                    "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                    "predictor": {"width": 16, "depth": 1, "heads": 2},
                },
                "data": {
                    "sources": {
                        "motion8": {"shards": str(motion_shards / "unlabelled")},
                        "pictures": {"shards": str(pictures)},
                    },
                    "clip": {"frames": 8, "stride": 2, "size": 32},
                    "images": images,
                },
                "objectives": ["fwm", "hw", {"ld": {"hidden": 8}}],
                "schedule": {"steps": STEPS, "lr": 1e-3, "ema_start": 0.9, "ema_final": 0.99},
                "engine": {"precision": "fp32", "batch_size": 4, "zero_stage": stage},
                "monitor": {"log_every": 1, "health_every": 4},
            }
        )
        assert train(config, lambda line: None) == "done"
        lines = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines], [line["terms"]["ld"] for line in lines]

    return run


def test_every_stage_trains_on_both_kinds_of_batches_alike(figures):
    losses, dynamics = figures(0, "batches")
    assert 0 in dynamics
    assert any(term > 0 for term in dynamics)
    for stage in (1, 2, 3):
        again, _ = figures(stage, "batches")
        np.testing.assert_allclose(again, losses, rtol=2e-4)


def test_images_as_clips_train_in_every_step(figures):
    losses, _ = figures(1, "clips")
    assert np.isfinite(losses).all()
