"""Batches of single images: temporal terms are 0, and every parameter has a gradient."""

import pytest
import torch
from objective_steps import TEMPORAL_TERMS, VARIANTS, configure, make_clips, one_step

from hpc_jepa.kernels.patches import patchify
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.types import TokenGrid


def train(variant, semantics, images, frames):
    """(module with gradients, terms) after one step on clips of so many frames."""
    config = configure(variant, semantics, f"data.images={images}")
    train_module, terms, loss = one_step(config, make_clips(config, frames))
    loss.backward()
    return train_module, terms


def trained(train_module):
    return {name: p for name, p in train_module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_has_no_temporal_term(variant, semantics):
    train_module, terms = train(variant, semantics, "batches", frames=1)
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(terms[name] == 0 for name in TEMPORAL_TERMS & terms.keys())
    assert terms["prediction"] > 0
    assert train_module.model.student.patch_embedding.image.weight.grad.abs().max() > 0
    assert not train_module.model.student.patch_embedding.video.weight.grad.any()


@pytest.mark.parametrize("variant", ["baseline", "fwm_hw_ld"])
def test_images_and_videos_give_a_gradient_to_the_same_parameters(variant):
    images, videos = (trained(train(variant, "corrected", "batches", frames)[0]) for frames in (1, 8))
    with_gradient = [{name for name, p in found.items() if p.grad is not None} for found in (images, videos)]
    assert with_gradient[0] == with_gradient[1]
    image_parameters = {name for name in videos if "image" in name}
    assert len(image_parameters) == 4  # projection weight and bias, modality vectors of student and predictor
    assert all(not videos[name].grad.any() for name in image_parameters)


def test_images_as_clips_do_not_train_the_image_parameters():
    train_module, terms = train("baseline", "published", "clips", frames=8)
    assert not any("image" in name for name in trained(train_module))
    assert terms["prediction"] > 0


def test_an_image_has_its_own_patch_projection_and_modality_vector():
    student = build_train_module(configure("baseline", "corrected", "data.images=batches")).model.student
    pixels = torch.randn(2, 3, 1, 48, 48)
    projection = student.patch_embedding.image
    expected = torch.nn.functional.conv3d(pixels, projection.weight, projection.bias, stride=(1, 8, 8))
    grid = student.grid(pixels)
    assert grid == TokenGrid(1, 6, 6, image=True)
    found = student.patch_embedding(patchify(pixels, 1, 8), grid.image)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(student.modality(torch.zeros(1, 1, 32), image=True), student.modality.image)
