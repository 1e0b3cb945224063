"""Batches of images alone meet every variant: temporal terms are absent, and every parameter keeps a gradient."""

import pytest
import torch

from hpc_jepa.config.loading import CONFIGS, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.kernels.patches import patchify
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.masking.modality import MasksByModality
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.types import ClipBatch, TokenGrid

VARIANTS = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))
TEMPORAL = {"ld", "delta", "ltc", "ac", "spectral", "velgate", "hamiltonian", "kinematic", "fwm_static"}
SMALL = (
    "model.encoder={width: 32, depth: 4, heads: 2, patch: 8, levels: [1, 2, 3, 4]}",
    "model.predictor={width: 16, depth: 1, heads: 2}",
    "engine={batch_size: 4, precision: fp32}",
    "data.clip={frames: 8, stride: 1, size: 48}",
    "schedule.steps=100",
)


def configure(variant, semantics, images):
    files = [CONFIGS / "regime" / "mixed.yaml", CONFIGS / "objective" / f"{variant}.yaml"]
    return read_config(RunConfig, files, [f"semantics={semantics}", f"data.images={images}", *SMALL])


def one_step(config, frames):
    pixels = torch.randn(4, 3, frames, 48, 48, generator=torch.Generator().manual_seed(frames))
    nothing = torch.zeros(4, dtype=torch.int64)
    videos, images = (
        MaskSampler(config.masking, config.semantics, TokenGrid(time, 6, 6), seed=0, batch_size=4) for time in (4, 1)
    )
    masks = MasksByModality(videos, images)(60, ClipBatch(pixels, nothing, nothing, nothing.bool()))
    train_module = build_train_module(config)
    terms, target = train_module(pixels, masks, 60)
    weights = train_module.objectives.weights(60)
    sum(weights[name] * term for name, term in terms.items()).backward()
    return train_module, terms, target


def trained(train_module):
    return {name: p for name, p in train_module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_has_no_temporal_term(variant, semantics):
    train_module, terms, target = one_step(configure(variant, semantics, "batches"), frames=1)
    assert target.shape[:2] == (4, 36)
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(terms[name] == 0 for name in TEMPORAL & terms.keys())
    assert terms["prediction"] > 0
    assert train_module.model.student.patch_embedding.image.weight.grad.abs().max() > 0
    assert not train_module.model.student.patch_embedding.video.weight.grad.any()


@pytest.mark.parametrize("variant", ["baseline", "fwm_hw_ld"])
def test_images_and_videos_give_a_gradient_to_the_same_parameters(variant):
    config = configure(variant, "corrected", "batches")
    of_images, of_videos = (trained(one_step(config, frames)[0]) for frames in (1, 8))
    with_gradient = [{name for name, p in found.items() if p.grad is not None} for found in (of_images, of_videos)]
    assert with_gradient[0] == with_gradient[1]
    image_parts = {name for name in of_videos if "image" in name}
    assert len(image_parts) == 4  # projection weight and bias, modality vectors of student and predictor
    assert all(not of_videos[name].grad.any() for name in image_parts)


def test_images_as_clips_leave_the_image_path_alone():
    train_module, terms, _ = one_step(configure("baseline", "published", "clips"), frames=8)
    assert not any("image" in name for name in trained(train_module))
    assert terms["prediction"] > 0


def test_an_image_is_projected_patch_by_patch_and_told_from_a_video():
    model = build_train_module(configure("baseline", "corrected", "batches")).model
    student = model.student
    pixels = torch.randn(2, 3, 1, 48, 48)
    projection = student.patch_embedding.image
    expected = torch.nn.functional.conv3d(pixels, projection.weight, projection.bias, stride=(1, 8, 8))
    grid = student.grid(pixels)
    assert grid == TokenGrid(1, 6, 6, image=True)
    found = student.patch_embedding(patchify(pixels, 1, 8), grid.image)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4)
    vectors = student.modality(torch.zeros(1, 1, 32), image=True)
    torch.testing.assert_close(vectors, student.modality.image)
