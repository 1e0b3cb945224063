"""Two micro-batches compute the terms and the gradients of the whole batch, or the run is refused by name."""

import pytest
import torch
from objective_steps import STEP, VARIANTS, configure, make_clips, make_masker, one_step, term_gradient

from hpc_jepa.config.run import ObjectiveChoice
from hpc_jepa.errors import InputError
from hpc_jepa.objectives.fwm import Factorised
from hpc_jepa.objectives.objective import Objective
from hpc_jepa.objectives.registry import validate_objectives
from hpc_jepa.training.train_module import build_train_module

ACCUMULATION = "engine.accumulation=2"
REFUSED = {"fwm", "sigreg", "ltc_infonce", "variance"}


def is_refused(config):
    """Whether an objective of the run is one of the features of the whole batch."""
    names = {choice.name for choice in config.objectives}
    return bool(names & REFUSED) or {"hw", "ld"} <= names


def accumulated(config):
    """{term: (value, gradient)}, averaged over the micro-batches of the batch."""
    clips = make_clips(config)
    train_module = build_train_module(config)
    step_masks = make_masker(config, accumulation=2).micro_batches(STEP, clips)
    found = {}
    for pixels, masks in zip(clips.pixels.chunk(2), step_masks, strict=True):
        terms, _ = train_module(pixels, masks, STEP, step_masks)
        for name, term in terms.items():
            found.setdefault(name, []).append((term.detach(), term_gradient(train_module, term)))
    return {name: [sum(part) / 2 for part in zip(*parts, strict=True)] for name, parts in found.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_micro_batches_equal_the_whole_batch_or_are_refused(variant):
    config = configure(variant, "corrected", ACCUMULATION)
    if is_refused(config):
        with pytest.raises(InputError, match=r"objectives\.\w+: .*engine\.accumulation"):
            validate_objectives(config)
        return
    validate_objectives(config)
    train_module, terms, _ = one_step(configure(variant))
    together = accumulated(config)
    assert terms.keys() == together.keys()
    for name, term in terms.items():
        gradient = term_gradient(train_module, term)
        torch.testing.assert_close(together[name][0], term.detach(), rtol=1e-5, atol=0, msg=name)
        tolerance = 1e-4 * gradient.abs().max().item()
        torch.testing.assert_close(together[name][1], gradient, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("variant", ["fwm_ld", "hw_ld"])
def test_statistics_of_each_process_are_those_of_each_micro_batch(variant):
    config = configure(variant, "published", ACCUMULATION)
    validate_objectives(config)
    whole, clips = configure(variant, "published"), make_clips(config)
    together = accumulated(config)
    found = {}
    for rank in (0, 1):  # the two halves as two processes see them
        part = make_clips(config, pixels=clips.pixels.chunk(2)[rank])
        _, terms, _ = one_step(whole, part, rank=rank, world_size=2)
        for name, term in terms.items():
            found.setdefault(name, []).append(term.detach())
    for name, values in found.items():
        torch.testing.assert_close(together[name][0], sum(values) / 2, rtol=1e-6, atol=0, msg=name)


def test_an_average_of_features_that_is_not_declared_is_refused_in_its_first_step(monkeypatch):
    monkeypatch.setattr(Factorised, "batch_statistic", Objective.batch_statistic)
    monkeypatch.setattr(Factorised, "_covariance", lambda self, rows, columns, real: self.ctx.process_mean(rows.mean()))
    config = configure("fwm", "corrected", ACCUMULATION)
    validate_objectives(config)
    with pytest.raises(InputError, match=r"engine\.accumulation"):
        accumulated(config)


@pytest.mark.parametrize("name", ["sigreg", "ltc_infonce"])
def test_what_is_global_in_both_semantics_is_refused_in_both(name):
    for semantics in ("published", "corrected"):
        config = configure("baseline", semantics, ACCUMULATION)
        chosen = config.model_copy(update={"objectives": (ObjectiveChoice(name=name),)})
        with pytest.raises(InputError, match=rf"objectives\.{name}: .*engine\.accumulation"):
            validate_objectives(chosen)
