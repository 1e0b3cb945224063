"""Values and gradients of the published semantics, against a recording of the published code."""

from dataclasses import replace

import pytest
import torch

from hpc_jepa.objectives import build_objective

TERMS = {
    "L_pred": ("baseline", "prediction"),
    "L_ctx": ("baseline", "context"),
    "hw": ("hw", "hw"),
    "ld": ("ld", "ld"),
    "fwm_static": ("fwm", "fwm_static"),
    "fwm_orth": ("fwm", "fwm_orthogonality"),
    "delta": ("delta", "delta"),
    "spectral": ("spectral", "spectral"),
    "kinematic_l1": ("kinematic", "kinematic"),
    "kinematic_accel": ("kinematic_accel", "kinematic"),
    "hw_ld": ("hw", "ld"),  # the dynamics term of a run with hard-region weighting
}
HEAD = {"ld.w1": "0.weight", "ld.b1": "0.bias", "ld.w2": "2.weight", "ld.b2": "2.bias"}


def build(recorded_term, golden, latents, semantics="published"):
    name, _ = TERMS[recorded_term]
    overrides = {"hw": {"temperature": 1.0}} if name == "hw" else {}
    if recorded_term in ("ld", "hw_ld"):
        overrides["ld"] = {"hidden": 16}
    objective = build_objective(
        name, width=int(golden["C"]), levels=int(golden["L"]), grid=latents.grid, semantics=semantics, **overrides
    )
    if "ld" in objective.auxiliary:
        head = objective.auxiliary["ld"].head
        head.load_state_dict({HEAD[name]: golden[f"head.{name}"] for name in HEAD})
    return objective


@pytest.mark.parametrize("recorded_term", TERMS)
def test_term_and_its_gradients_equal_the_recording(recorded_term, golden, recorded):
    latents, leaves = recorded
    objective = build(recorded_term, golden, latents)
    term = objective(latents)[TERMS[recorded_term][1]]
    torch.testing.assert_close(term, golden[f"term.{recorded_term}.value"], rtol=1e-5, atol=0)

    inputs = dict(leaves)
    if "ld" in objective.auxiliary:
        parameters = dict(objective.auxiliary["ld"].head.named_parameters())
        inputs |= {name: parameters[HEAD[name]] for name in HEAD}
    has_path = {name: bool(golden.get(f"term.{recorded_term}.path.{name}", False)) for name in inputs}
    if not any(has_path.values()):
        assert not term.requires_grad
        return
    gradients = torch.autograd.grad(term, list(inputs.values()), allow_unused=True)
    for (name, _), gradient in zip(inputs.items(), gradients, strict=True):
        assert (gradient is not None) == has_path[name], name
        if gradient is not None:
            expected = golden[f"term.{recorded_term}.grad.{name}"]
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_hw_at_infinite_temperature_equals_the_prediction_loss(golden, recorded):
    latents, _ = recorded
    objective = build_objective("hw", width=8, levels=4, grid=latents.grid, hw={"temperature": 1e9})
    terms = objective(latents)
    torch.testing.assert_close(terms["hw"], terms["prediction"], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("composed", "alone"), [("fwm_hw_ld", "fwm"), ("hw_ld", "baseline")])
def test_published_dynamics_with_hard_regions_have_a_value_and_no_gradient(composed, alone, golden, recorded):
    latents, leaves = recorded
    losses, gradients = [], []
    for name, extra in ((composed, {}), (alone, {"hw": {"weight": 1.0}})):
        objective = build_objective(name, width=8, levels=4, grid=latents.grid, semantics="published", **extra)
        weights = objective.weights(step=0)
        losses.append(sum(weights[term] * value for term, value in objective(latents).items()))
        inputs = [leaves[leaf] for leaf in ("S1", "S2", "P1", "P2")]
        gradients.append(torch.autograd.grad(losses[-1], inputs, retain_graph=True, allow_unused=True))
    assert losses[0] != losses[1]
    for with_ld, without in zip(*gradients, strict=True):
        assert (with_ld is None) == (without is None)
        if with_ld is not None:
            torch.testing.assert_close(with_ld, without, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ld", "fwm_hw_ld"])
def test_corrected_latent_dynamics_reaches_the_encoder_and_its_head(name, golden, recorded):
    latents, leaves = recorded
    objective = build_objective(name, width=8, levels=4, grid=latents.grid, semantics="corrected")
    head = objective.auxiliary["ld"].head
    objective(latents)["ld"].backward()
    for tensor in (leaves["S1"], leaves["S2"], *head.parameters()):
        assert tensor.grad is not None and tensor.grad.abs().max() > 0
    assert leaves["Y"].grad is None


def test_corrected_fwm_reaches_both_parts_of_every_level(golden, recorded):
    latents, leaves = recorded
    objective = build_objective("fwm", width=8, levels=4, grid=latents.grid)
    terms = objective(latents)
    (terms["fwm_static"] + terms["fwm_orthogonality"]).backward()
    by_channel = leaves["S1"].grad.abs().amax((0, 1))
    assert (by_channel > 0).all()


def test_a_batch_without_a_temporal_pair_gives_zero_and_not_nan(golden, recorded):
    latents, _ = recorded
    lonely = tuple(
        replace(masks, next_in_context=torch.full_like(masks.next_in_context, -1), pairs=torch.zeros(()))
        for masks in latents.masks
    )
    objective = build_objective("fwm_hw_ld", width=8, levels=4, grid=latents.grid)
    terms = objective(replace(latents, masks=lonely))
    assert terms["ld"] == 0 and terms["fwm_static"] == 0
    sum(terms.values()).backward()
