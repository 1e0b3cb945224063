"""Runs on videos and batches of images train alike at every ZeRO stage."""

import io
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.source import EncodedFile, Sample, SampleOrigin
from hpc_jepa.runs.run_dir import RunDir
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
def losses(configure, motion_shards, pictures):
    """``losses(stage, images)`` trains a tiny model; its losses and its ``ld`` terms, step by step."""

    def run(stage, images):
        sources = {"motion8": {"shards": str(motion_shards / "unlabelled")}, "pictures": {"shards": str(pictures)}}
        config = configure(
            study=f"stage-{stage}-{images}",
            data={"sources": sources, "clip": {"frames": 8, "stride": 2, "size": 32}, "images": images},
            schedule={"steps": STEPS, "lr": 1e-3, "ema_start": 0.9, "ema_final": 0.99},
            engine={"precision": "fp32", "batch_size": 4, "zero_stage": stage},
        )
        assert train(config, lambda record: None) == "done"
        records = RunDir(config.folder).logged_metrics()
        return [record.loss for record in records], [record.terms["ld"] for record in records]

    return run


def test_every_stage_trains_alike_on_videos_and_image_batches(losses):
    expected, dynamics = losses(0, "batches")
    assert 0 in dynamics
    assert any(term > 0 for term in dynamics)
    for stage in (1, 2, 3):
        actual, _ = losses(stage, "batches")
        np.testing.assert_allclose(actual, expected, rtol=2e-4)


def test_images_as_clips_train_in_every_step(losses):
    assert np.isfinite(losses(1, "clips")[0]).all()
