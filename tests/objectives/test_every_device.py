"""Every variant on a GPU: the terms and gradients of the CPU, and no host sync in a step."""

from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch
from objective_steps import STEP, VARIANTS, configure, make_clips, make_masker

from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.types import ClipBatch, TokenMasks

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
"""The CPU is compared with itself, so that the test has run where there is no GPU."""
RANDOM_TERMS = {"sigreg"}
"""Random numbers of these differ between types of device."""


def on(device, values):
    """A dataclass of tensors on a device."""
    tensors = {field.name: getattr(values, field.name) for field in fields(values)}
    return type(values)(**{name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None})


@contextmanager
def host_syncs_raise(device):
    """A host sync raises RuntimeError, on a GPU."""
    if device == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def step_on(device, config, masks, clips, syncs_raise=False):
    """Terms and the gradient of their sum with respect to the student, on the CPU."""
    train_module = build_train_module(config).to(device)
    there: ClipBatch = on(device, clips)
    groups: tuple[TokenMasks, ...] = tuple(on(device, group) for group in masks)
    parameters = [p for p in train_module.model.student.parameters() if p.requires_grad]
    for attempt in range(1 + syncs_raise):  # tables that are made once may sync
        with host_syncs_raise(device if attempt else "cpu"):
            terms, _ = train_module(there.pixels, groups, STEP)
            loss = weighted_sum(terms, train_module.objectives.weights(STEP))
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
    return {name: term.detach().cpu() for name, term in terms.items()}, torch.cat([g.flatten() for g in flat]).cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_the_terms_of_the_cpu_and_no_host_sync(variant, semantics, device):
    config = configure(variant, semantics)
    clips = make_clips(config)
    masks = make_masker(config)(STEP, clips)
    expected, gradient = step_on("cpu", config, masks, clips)
    terms, found = step_on(device, config, masks, clips, syncs_raise=True)
    assert terms.keys() == expected.keys()
    comparable = sorted(terms.keys() - RANDOM_TERMS)
    ours, theirs = ({name: values[name] for name in comparable} for values in (terms, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    if not terms.keys() & RANDOM_TERMS:  # an absolute error near zero may change sign
        assert torch.nn.functional.cosine_similarity(found, gradient, dim=0) > 0.999
