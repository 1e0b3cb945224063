import pytest
import torch
import torch.nn.functional as F

from hpc_jepa.config.model import ModelConfig
from hpc_jepa.models.video_jepa import VideoJEPA


def build(config: ModelConfig, precision: str = "fp32", seed: int = 0) -> VideoJEPA:
    torch.manual_seed(seed)
    return VideoJEPA(config, precision)


def loss_of(latents) -> torch.Tensor:
    """A loss that reads every output."""
    targets = [latents.target_at(masks.target) for masks in latents.masks]
    wanted = zip(latents.prediction, targets, strict=True)
    dense = zip(latents.context_prediction, latents.target_at_context, strict=True)
    return sum((p.float() - t).abs().mean() for pairs in (wanted, dense) for p, t in pairs)


def test_the_target_starts_as_a_frozen_copy_of_the_student(small_model):
    model = build(small_model)
    student, target = model.student.state_dict(), model.target.state_dict()
    assert student.keys() == target.keys()
    for name, value in student.items():
        assert torch.equal(value, target[name]), name
        assert value.data_ptr() != target[name].data_ptr(), name
    assert not any(parameter.requires_grad for parameter in model.target.parameters())


def test_weights_depend_on_the_seed(small_model):
    first, again, other = (build(small_model, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["student.blocks.0.mlp.fc1.weight"], other["student.blocks.0.mlp.fc1.weight"])


def test_latents_have_the_documented_shapes(small_model, clips, two_groups):
    latents = build(small_model)(clips, two_groups)
    assert latents.target.shape == (2, 32, 64)
    assert [s.shape[1:] for s in latents.student] == [(10, 64), (6, 64)]
    assert [p.shape[1:] for p in latents.prediction] == [(20, 64), (20, 64)]
    assert [c.shape[1:] for c in latents.context_prediction] == [(10, 64), (6, 64)]
    assert latents.grid.tokens == 32


def test_the_target_is_the_level_normalised_full_pass(small_model, clips, two_groups):
    model = build(small_model)
    latents = model(clips, two_groups)
    with torch.no_grad():
        levels = model.student(clips).split(32, dim=-1)  # the student is still equal to the target
    expected = torch.cat([F.layer_norm(level, (32,), eps=1e-5) for level in levels], dim=-1)
    torch.testing.assert_close(latents.normalised_target(), expected)


def test_the_recorded_target_is_reproduced(recorded):
    width = int(recorded["size.encoder_width"])
    levels = recorded["output.encoder.training.full"].split(width, dim=-1)
    expected = torch.cat([F.layer_norm(level, (width,), eps=1e-5) for level in levels], dim=-1)
    torch.testing.assert_close(expected, recorded["output.target"], rtol=0, atol=1e-5)


def test_every_trained_parameter_receives_a_gradient_and_no_other(small_model, clips, two_groups):
    model = build(small_model)
    loss_of(model(clips, two_groups)).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name
        else:
            assert parameter.grad is None, name


def test_the_student_depends_only_on_its_context_tokens(small_model, clips, two_groups):
    model, (masks, _) = build(small_model), two_groups
    hidden = torch.ones(2, 32).scatter(1, masks.context, 0.0).view(2, 1, 2, 4, 4)
    noise = torch.randn_like(clips) * F.interpolate(hidden, size=clips.shape[2:], mode="nearest")
    assert torch.equal(model.student(clips, masks.context), model.student(clips + noise, masks.context))
    assert not torch.equal(model.student(clips), model.student(clips + noise))


def test_one_pass_over_all_groups_equals_one_pass_each(small_model, clips, two_groups):
    together, *apart = (build(small_model) for _ in range(3))
    latents = together(clips, two_groups)
    loss_of(latents).backward()
    for number, (model, group) in enumerate(zip(apart, two_groups, strict=True)):
        alone = model(clips, (group,))
        loss_of(alone).backward()
        for name in ("student", "prediction", "context_prediction"):
            ours, theirs = getattr(latents, name)[number], getattr(alone, name)[0]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    for name, parameter in together.named_parameters():
        if parameter.grad is not None:
            summed = sum(model.get_parameter(name).grad for model in apart)
            torch.testing.assert_close(parameter.grad, summed, rtol=0, atol=1e-5)


def test_all_tokens_in_order_equal_the_full_clip(small_model, clips):
    student = build(small_model).student
    everything = torch.arange(32).expand(2, -1)
    torch.testing.assert_close(student(clips, everything), student(clips), rtol=0, atol=1e-5)


def test_evaluation_features_are_those_of_the_last_level(small_model, clips):
    student = build(small_model).student
    torch.testing.assert_close(student.forward_features(clips), student(clips)[..., -32:])


def test_bf16_is_close_to_fp32_and_features_are_fp32(small_model, clips, two_groups):
    exact, rounded = (build(small_model, precision)(clips, two_groups) for precision in ("fp32", "bf16"))
    assert rounded.student[0].dtype == rounded.target.dtype == torch.float32
    assert rounded.prediction[0].dtype == torch.bfloat16
    torch.testing.assert_close(rounded.normalised_target(), exact.normalised_target(), rtol=0, atol=0.06)
    torch.testing.assert_close(rounded.student[0], exact.student[0], rtol=0, atol=0.06)
    torch.testing.assert_close(rounded.prediction[0].float(), exact.prediction[0], rtol=0, atol=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputing_activations_changes_no_gradient(small_model, clips, two_groups, precision):
    recomputing = small_model.model_copy(update={"activation_checkpointing": True})
    gradients = []
    for config in (small_model, recomputing):
        model = build(config, precision)
        loss_of(model(clips, two_groups)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    assert all(torch.equal(gradient, recomputed[name]) for name, gradient in plain.items())


def test_training_works_after_an_evaluation_in_inference_mode(small_model, clips):
    model = build(small_model)
    with torch.inference_mode():
        model.student.forward_features(clips[:, :, :2])  # a grid that no other test uses
    model.student(clips[:, :, :2]).sum().backward()


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_step_has_no_host_sync(small_model, clips, two_groups):
    """Traced without a graph break, which a host sync would cause."""
    model = build(small_model)
    traced = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(clips, two_groups).prediction[0], model(clips, two_groups).prediction[0])
