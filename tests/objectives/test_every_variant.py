"""What must hold for every variant of the study, in both semantics."""

import math

import pytest
import torch

from hpc_jepa.config.loading import CONFIGS, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.types import ClipBatch, TokenGrid

VARIANTS = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))
SMALL = (
    "model.encoder={width: 32, depth: 4, heads: 2, patch: 8, levels: [1, 2, 3, 4]}",
    "model.predictor={width: 16, depth: 1, heads: 2}",
    "engine={batch_size: 4, precision: fp32}",
    "data.clip={frames: 8, stride: 1, size: 48}",
    "schedule.steps=100",
)
SILENT = {  # variants whose published dynamics term carries no gradient (B2), so its head receives none
    ("hw_ld", "published"): {"ld.head"},
    ("fwm_hw_ld", "published"): {"ld.head"},
}


def configure(variant, semantics, *more):
    files = [CONFIGS / "regime" / "ucf101.yaml", CONFIGS / "objective" / f"{variant}.yaml"]
    return read_config(RunConfig, files, [f"semantics={semantics}", *SMALL, *more])


def one_step(config, step=60, clips=None):
    """Losses and gradients of one step of a fresh model, with the context loss on."""
    clip = config.data.clip
    if clips is None:
        generator = torch.Generator().manual_seed(1)
        clips = torch.randn(config.engine.batch_size, 3, clip.frames, clip.size, clip.size, generator=generator)
    nothing = torch.zeros(len(clips), dtype=torch.int64)
    batch = ClipBatch(clips, nothing, nothing, nothing.bool())
    side = clip.size // config.model.encoder.patch
    grid = TokenGrid(clip.frames // config.model.encoder.tubelet, side, side)
    masker = MaskSampler(config.masking, config.semantics, grid, seed=0, batch_size=len(clips))
    train_module = build_train_module(config)
    terms, _ = train_module(clips, masker(step, batch), step)
    weights = train_module.objectives.weights(step)
    assert weights.keys() == terms.keys()
    loss = sum(weights[name] * term for name, term in terms.items())
    loss.backward()
    return train_module, terms, loss


def receives(module):
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_encoder_predictor_and_every_head(variant, semantics):
    config = configure(variant, semantics)
    train_module, _, loss = one_step(config)
    assert torch.isfinite(loss)
    assert receives(train_module.model.student) and receives(train_module.model.predictor)
    assert not receives(train_module.model.target)
    reached = {
        f"{name}.{head}"
        for name, objective in train_module.objectives.auxiliary.items()
        for head, module in objective.named_children()
        if receives(module)
    }
    heads = {
        f"{name}.{head}"
        for name, objective in train_module.objectives.auxiliary.items()
        for head, _ in objective.named_children()
    }
    assert heads - reached == SILENT.get((variant, semantics), set())


@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("baseline", "amg", "motion_guided")])
def test_every_auxiliary_term_moves_what_it_says(variant, semantics):
    """Alone, without the base loss, a term reaches the student or the predictor, unless it is declared silent."""
    config = configure(variant, semantics)
    _, terms, _ = one_step(config)
    for name, term in terms.items():
        if name in ("prediction", "context"):
            continue
        silent = any(head.startswith(f"{name}.") for head in SILENT.get((variant, semantics), ()))
        assert term.requires_grad != silent, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_one_clip_works(variant):
    config = configure(variant, "corrected", "engine.batch_size=1")
    _, terms, _ = one_step(config)
    assert all(torch.isfinite(term) for term in terms.values()), terms


@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_of_one_tubelet_has_no_temporal_term(variant, semantics):
    # One clip, because the published motion map needs as many clips as tubelets (B24).
    config = configure(variant, semantics, "data.clip.frames=2", "engine.batch_size=1")
    _, terms, loss = one_step(config)
    assert torch.isfinite(loss)
    temporal = {"ld", "delta", "ltc", "ac", "spectral", "velgate", "hamiltonian", "kinematic", "fwm_static"}
    assert all(terms[name] == 0 for name in temporal & terms.keys())


@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_compiles_into_one_graph(variant, semantics):
    config = configure(variant, semantics)
    clip = config.data.clip
    clips = torch.randn(4, 3, clip.frames, clip.size, clip.size)
    nothing = torch.zeros(4, dtype=torch.int64)
    masker = MaskSampler(config.masking, config.semantics, TokenGrid(4, 6, 6), seed=0, batch_size=4)
    masks = masker(0, ClipBatch(clips, nothing, nothing, nothing.bool()))
    train_module = build_train_module(config)
    plain = train_module.model(clips, masks, 0)
    torch._dynamo.reset()
    compiled = torch.compile(train_module.objectives, fullgraph=True, backend="eager")
    expected = train_module.objectives(train_module.model(clips, masks, 0))
    found = compiled(plain)
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term, rtol=1e-5, atol=1e-6)


def test_published_kinematic_under_ema_leaves_every_gradient_as_it_was():
    gradients = []
    for weight in (0.0, 5.0):
        config = configure("kinematic", "published", "ema=always", f"objectives=[{{kinematic: {{weight: {weight}}}}}]")
        train_module, terms, _ = one_step(config)
        assert not terms["kinematic"].requires_grad
        gradients.append([p.grad for p in train_module.model.student.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_annealing_starts_at_the_weight_of_the_plain_form_and_ends_at_nothing():
    steps = 30_000
    plain, fading = (
        build_train_module(configure(name, "corrected", f"schedule.steps={steps}")).objectives
        for name in ("kinematic_accel", "kinematic_anneal")
    )
    assert fading.weights(0) == plain.weights(0)
    assert fading.weights(299)["kinematic"] == plain.weights(299)["kinematic"]
    assert fading.weights(15_000)["kinematic"] == pytest.approx(0.05)
    assert fading.weights(steps - 1)["kinematic"] == pytest.approx(0.1 * 0.5 * (1 + math.cos(0.99 * math.pi)))


def test_a_still_clip_has_no_colour_change_to_decode():
    config = configure("ac", "corrected")
    image = torch.randn(4, 3, 1, 48, 48)
    train_module, _, _ = one_step(config, clips=image.expand(-1, -1, 8, -1, -1).contiguous())
    head = train_module.objectives.auxiliary["ac"].head
    with torch.no_grad():
        for module in (head[0], head[2]):
            module.weight.zero_()
            module.bias.zero_()
        latents = train_module.model(
            image.expand(-1, -1, 8, -1, -1).contiguous(),
            MaskSampler(config.masking, config.semantics, TokenGrid(4, 6, 6), seed=0, batch_size=4)(
                0, ClipBatch(image, *(torch.zeros(4, dtype=torch.int64),) * 2, torch.zeros(4, dtype=torch.bool))
            ),
        )
        assert train_module.objectives(latents)["ac"].item() == pytest.approx(0, abs=1e-6)


def test_runs_without_ema_train_their_targets_only_where_they_should():
    published, corrected = (configure("kinematic", semantics) for semantics in ("published", "corrected"))
    assert (published.targets, corrected.targets) == ("student", "ema")
    assert configure("sigreg_no_ema", "corrected").targets == "student"
    assert configure("ld", "corrected", "ema=never").targets == "student_detached"
