"""The networks with the fused kernels against those with the plain operations; on a CPU in Triton's interpreter."""

from dataclasses import fields, replace

import pytest
import torch

from hpc_jepa.kernels import casts, layer_norm, rotary
from hpc_jepa.models.video_jepa import VideoJEPA


@pytest.fixture
def use_kernels(monkeypatch, triton_interpreter):
    """``use_kernels(True)`` selects the fused forms for the networks."""
    from hpc_jepa.kernels.triton import layer_norm as kernels

    if not torch.cuda.is_available():
        monkeypatch.setattr(kernels, "PARTIAL_SUMS", 8)  # the interpreter runs one program after the other

    def use(fused):
        for module in (casts, layer_norm, rotary):
            monkeypatch.setattr(module, "fused", lambda _: fused)

    return use


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-5), ("bf16", 0.08)])
def test_latents_and_gradients_are_those_of_the_plain_networks(
    use_kernels, small_model, make_masks, precision, tolerance, recompute
):
    # Few tokens, 2x3x2: the interpreter takes milliseconds per row.
    generator = torch.Generator().manual_seed(4)
    clips, order = torch.randn(2, 3, 4, 24, 16, generator=generator), torch.rand(2, 12, generator=generator).argsort(1)
    two_groups = (make_masks(order[:, :4], order[:, 5:]), make_masks(order[:, 8:11], order[:, :8]))
    # The interpreter cuts to bfloat16, a GPU rounds.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = small_model.model_copy(update={"activation_checkpointing": recompute})
    torch.manual_seed(0)
    model = VideoJEPA(config, precision).to(device)
    masks = tuple(
        replace(group, **{f.name: getattr(group, f.name).to(device) for f in fields(group) if f.name != "padding"})
        for group in two_groups
    )
    found = []
    for fused in (True, False):
        use_kernels(fused)
        model.zero_grad()
        latents = model(clips.to(device), masks)
        parts = (latents.target, *latents.student, *latents.prediction, *latents.context_prediction)
        sum(part.float().square().mean() for part in parts[1:]).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append(([part.detach() for part in parts], gradients))
    (ours, of_ours), (plain, of_plain) = found
    assert [part.dtype for part in ours] == [part.dtype for part in plain]
    for x, y in zip(ours, plain, strict=True):
        torch.testing.assert_close(x.float() / y.float().std(), y.float() / y.float().std(), rtol=0, atol=tolerance)
    assert of_ours.keys() == of_plain.keys()
    for name in of_plain:
        error = (of_ours[name] - of_plain[name]).norm() / of_plain[name].norm().clamp(min=1e-12)
        assert error < tolerance, f"{name}: {error}"
