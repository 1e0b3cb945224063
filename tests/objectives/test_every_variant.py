"""Properties of every variant, in both semantics."""

import math

import pytest
import torch
from objective_steps import (
    SILENT_TERMS,
    STEP,
    TEMPORAL_TERMS,
    VARIANTS,
    check_term_acts,
    configure,
    make_clips,
    make_masker,
    one_step,
    term_gradient,
)

from hpc_jepa.training.train_module import build_train_module


def receives(module):
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def heads(train_module):
    """Heads of all objectives by ``<objective>.<head>``."""
    return {
        f"{name}.{head}": module
        for name, objective in train_module.objectives.auxiliary.items()
        for head, module in objective.named_children()
    }


@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_active_term_has_a_value_and_a_gradient_and_every_head_is_reached(variant, semantics):
    train_module, terms, loss = one_step(configure(variant, semantics))
    weights, silent = train_module.objectives.weights(STEP), SILENT_TERMS.get((variant, semantics), set())
    for name in (name for name in terms if weights[name]):
        check_term_acts(name, terms[name], term_gradient(train_module, terms[name]), name not in silent)
    loss.backward()
    assert torch.isfinite(loss)
    assert receives(train_module.model.student) and receives(train_module.model.predictor)
    assert not receives(train_module.model.target)
    assert {name.split(".")[0] for name, head in heads(train_module).items() if not receives(head)} == silent


@pytest.mark.parametrize(("value", "slope"), [(0.0, 0.0), (1.0, 0.0)])
def test_a_term_without_value_or_gradient_fails_the_check(value, slope):
    with pytest.raises(AssertionError, match="idle"):
        check_term_acts("idle", torch.tensor(value), torch.full((3,), slope))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_one_clip_works(variant):
    _, terms, _ = one_step(configure(variant, "corrected", "engine.batch_size=1"))
    assert all(torch.isfinite(term) for term in terms.values()), terms


@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_of_one_tubelet_has_no_temporal_term(variant, semantics):
    # One clip, because the published motion map needs as many clips as tubelets (B24).
    _, terms, loss = one_step(configure(variant, semantics, "data.clip.frames=2", "engine.batch_size=1"))
    assert torch.isfinite(loss)
    assert all(terms[name] == 0 for name in TEMPORAL_TERMS & terms.keys())


@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_compiles_into_one_graph(variant, semantics):
    config = configure(variant, semantics)
    clips = make_clips(config)
    masks = make_masker(config)(0, clips)
    train_module = build_train_module(config)
    torch._dynamo.reset()
    compiled = torch.compile(train_module.objectives, fullgraph=True, backend="eager")
    terms = compiled(train_module.model(clips.pixels, masks, 0))
    for name, term in train_module.objectives(train_module.model(clips.pixels, masks, 0)).items():
        torch.testing.assert_close(terms[name], term, rtol=1e-5, atol=1e-6)


def test_published_kinematic_under_ema_does_not_change_the_gradient():
    gradients = []
    for weight in (0.0, 5.0):
        config = configure("kinematic", "published", "ema=always", f"objectives=[{{kinematic: {{weight: {weight}}}}}]")
        train_module, terms, loss = one_step(config)
        assert not terms["kinematic"].requires_grad
        loss.backward()
        gradients.append([p.grad for p in train_module.model.student.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_annealing_starts_at_the_constant_weight_and_ends_near_zero():
    steps = 30_000
    constant, annealed = (
        build_train_module(configure(name, "corrected", f"schedule.steps={steps}")).objectives
        for name in ("kinematic_accel", "kinematic_anneal")
    )
    assert annealed.weights(0) == constant.weights(0)
    assert annealed.weights(299)["kinematic"] == constant.weights(299)["kinematic"]
    assert annealed.weights(15_000)["kinematic"] == pytest.approx(0.05)
    assert annealed.weights(steps - 1)["kinematic"] == pytest.approx(0.1 * 0.5 * (1 + math.cos(0.99 * math.pi)))


def test_a_static_clip_has_no_colour_change_to_decode():
    config = configure("ac", "corrected")
    clips = make_clips(config, pixels=torch.randn(4, 3, 1, 48, 48).expand(-1, -1, 8, -1, -1).contiguous())
    train_module = build_train_module(config)
    with torch.no_grad():
        for parameter in train_module.objectives.auxiliary["ac"].head.parameters():
            parameter.zero_()
        terms, _ = train_module(clips.pixels, make_masker(config)(0, clips), 0)
    assert terms["ac"].item() == pytest.approx(0, abs=1e-6)


def test_targets_without_ema_are_trained_only_in_the_right_runs():
    published, corrected = (configure("kinematic", semantics) for semantics in ("published", "corrected"))
    assert (published.targets, corrected.targets) == ("student", "ema")
    assert configure("sigreg_no_ema", "corrected").targets == "student"
    assert configure("ld", "corrected", "ema=never").targets == "student_detached"
