"""Tubelets of padding alone count in no term, in no count and in no statistic."""

from dataclasses import replace

import pytest
import torch
from objective_steps import STEP, VARIANTS, configure, make_clips, make_masker, term_gradient

from hpc_jepa.config.run import ObjectiveChoice
from hpc_jepa.errors import InputError
from hpc_jepa.objectives.composition import build_objective
from hpc_jepa.objectives.delta import Delta
from hpc_jepa.objectives.registry import primitives, validate_objectives
from hpc_jepa.training.train_module import build_train_module

REAL_FRAMES = [8, 3, 5, 1]
"""Of 8 frames in four tubelets: 4, 2, 3 and 1 tubelets with a real frame."""
REAL_TUBELETS = [4, 2, 3, 1]
BASE = ("prediction", "context")


def padded(config, real=REAL_FRAMES):
    return replace(make_clips(config), real_frames=torch.tensor(real))


def latents_of(config, clips):
    train_module = build_train_module(config)
    masks = make_masker(config)(STEP, clips)
    return train_module, train_module.model.forward(clips.pixels, masks, STEP)


def is_padding(tokens, grid):
    """Per token [B, M] whether its tubelet is padding."""
    return tokens // grid.cells >= torch.tensor(REAL_TUBELETS)[:, None]


def with_noise(latents):
    """The latents with other values wherever a token is padding."""
    grid = latents.grid

    def change(values, tokens):
        noise = 3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(7))
        return values.where(~is_padding(tokens, grid)[..., None], noise)

    everything = torch.arange(grid.tokens).expand(len(latents.target), -1)
    groups = latents.masks
    return replace(
        latents,
        student=tuple(change(v, m.context) for v, m in zip(latents.student, groups, strict=True)),
        prediction=tuple(change(v, m.target) for v, m in zip(latents.prediction, groups, strict=True)),
        context_prediction=tuple(change(v, m.context) for v, m in zip(latents.context_prediction, groups, strict=True)),
        target=change(latents.target, everything),
    )


def is_refused(config):
    """Whether an objective of the run would count padding; then the run does not start."""
    handled = [primitives()[choice.name].handles_padding for choice in config.objectives]
    if not all(handled):
        with pytest.raises(InputError, match=r"data\.padding"):
            validate_objectives(config)
    return not all(handled)


@pytest.mark.parametrize("semantics", ["corrected", "published"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_term_depends_on_features_of_padding(variant, semantics):
    config = configure(variant, semantics, "data.padding=ignore")
    if is_refused(config):
        return
    train_module, latents = latents_of(config, padded(config))
    assert all(is_padding(masks.context, latents.grid).any() for masks in latents.masks)
    terms, changed = (train_module.objectives.forward(each) for each in (latents, with_noise(latents)))
    for name, term in terms.items():
        assert term.isfinite()
        torch.testing.assert_close(changed[name], term, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_gradient_flows_into_padding(variant):
    config = configure(variant, "corrected", "data.padding=ignore")
    if is_refused(config):
        return
    train_module, latents = latents_of(config, padded(config))
    inputs = {
        (field, index): values.detach().requires_grad_()
        for field in ("student", "prediction", "context_prediction")
        for index, values in enumerate(getattr(latents, field))
    }
    leaves = {field: tuple(value for (name, _), value in inputs.items() if name == field) for field, _ in inputs}
    terms = train_module.objectives.forward(replace(latents, target=latents.target.detach(), **leaves))
    gradients = torch.autograd.grad(sum(terms.values()), list(inputs.values()), allow_unused=True)
    for (field, index), gradient in zip(inputs, gradients, strict=True):
        if gradient is not None:
            masks = latents.masks[index]
            tokens = masks.target if field == "prediction" else masks.context
            assert gradient.isfinite().all()
            assert (gradient[is_padding(tokens, latents.grid)] == 0).all(), field


def check_sigreg(latents, rows, term):
    """The statistic of the real tokens alone, in one group of one clip."""
    tokens = torch.cat(rows)[None]
    alone = replace(latents, student=(tokens,), masks=(replace(latents.masks[0], padding=None),))
    built = build_objective(
        (ObjectiveChoice(name="sigreg"),), width=32, levels=4, grid=latents.grid, include_base=False
    )
    torch.testing.assert_close(term, built.forward(alone)["sigreg"], rtol=1e-5, atol=0)


def test_terms_are_those_of_the_real_tokens_alone():
    """Means, softmax, moments and covariance from lists of real tokens."""
    config = configure("baseline")
    _, latents = latents_of(config, padded(config))
    terms = {}
    for names in (("hw",), ("sigreg",), ("fwm",)):
        choices = tuple(ObjectiveChoice(name=name) for name in names)
        built = build_objective(choices, width=32, levels=4, grid=latents.grid, steps=100)
        terms |= built.forward(latents)
    prediction, context, hard, covariances, rows = [], [], [], [], []
    student = latents.normalised_student(4)
    for index, masks in enumerate(latents.masks):
        target = (latents.prediction[index] - latents.target_at(masks.target)).abs().mean(-1)
        real = ~is_padding(masks.target, latents.grid)
        prediction.append(target[real].mean())
        rows_of_clips = [row[keep] for row, keep in zip(target, real, strict=True)]
        weighted = [len(errors) * torch.softmax(errors, 0) * errors for errors in rows_of_clips]
        hard.append(torch.cat(weighted).mean())
        real = ~is_padding(masks.context, latents.grid)
        seen = (latents.context_prediction[index] - latents.target_at(masks.context)).abs().mean(-1)
        context.append((seen / masks.context_distance)[real].mean())
        tokens = student[index][real]
        by_level = tokens.view(-1, 4, 32)
        both = torch.cat([by_level[..., :16].flatten(1), by_level[..., 16:].flatten(1)], 1)
        covariances.append(torch.cov(both.T)[:64, 64:].square().mean())
        rows.append(latents.student[index][real])
    check_sigreg(latents, rows, terms["sigreg"])
    expected = {"prediction": prediction, "context": context, "hw": hard, "fwm_orthogonality": covariances}
    for name, values in expected.items():
        torch.testing.assert_close(terms[name], torch.stack(values).mean(), rtol=1e-5, atol=1e-8, msg=name)


def test_an_objective_that_does_not_know_padding_is_refused(monkeypatch):
    monkeypatch.setattr(Delta, "handles_padding", False)
    assert is_refused(configure("delta", "corrected", "data.padding=ignore"))
    validate_objectives(configure("delta", "corrected"))


@pytest.mark.parametrize("variant", ["baseline", "hw", "spectral", "ld_forecast", "kinematic_accel", "velgate"])
def test_micro_batches_share_the_counts_of_the_whole_batch(variant):
    config = configure(variant, "corrected", "engine.accumulation=2")
    clips = padded(config)
    train_module = build_train_module(config)
    step_masks = make_masker(config, accumulation=2).micro_batches(STEP, clips)
    whole_module = build_train_module(configure(variant))
    whole, _ = whole_module(clips.pixels, make_masker(configure(variant))(STEP, clips), STEP)
    parts = [
        train_module(pixels, masks, STEP, step_masks)[0]
        for pixels, masks in zip(clips.pixels.chunk(2), step_masks, strict=True)
    ]
    for name, term in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts) / 2, term, rtol=1e-5, atol=1e-8, msg=name)
        gradient = sum(term_gradient(train_module, part[name]) for part in parts) / 2
        expected = term_gradient(whole_module, term)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4 * expected.abs().max().item() + 1e-9, msg=name)


def test_without_padding_the_masks_are_those_of_before():
    config = configure("baseline")
    plain, marked = (make_masker(config)(STEP, clips) for clips in (make_clips(config), padded(config, [8, 8, 7, 8])))
    for one, other in zip(plain, marked, strict=True):
        assert other.padding is None
        assert torch.equal(one.next_in_context, other.next_in_context) and one.pairs == other.pairs
