import pytest
import torch

from hpc_jepa.kernels import rotary
from hpc_jepa.kernels.rotary import rotated_qkv

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Relative to the largest value; one unit of the half precisions, as the interpreter cuts what a GPU rounds."""


@pytest.fixture(params=["plain", "triton"])
def form(request, device, monkeypatch):
    """The two implementations."""
    monkeypatch.setattr(rotary, "fused", lambda _: request.param == "triton")
    return request.param


def made(clips, tokens, heads, head, per_channel, one_table, dtype, device):
    """Projections [B, N, 3 * heads * d], rotations, and gradients [B, heads, N, d] of query, key and value."""
    generator = torch.Generator().manual_seed(heads * head)
    qkv = torch.randn(clips, tokens, 3 * heads * head, generator=generator)
    angles = torch.randn(1 if one_table else clips, 1, tokens, head if per_channel else head // 2, generator=generator)
    rotation = torch.view_as_real(torch.polar(torch.ones_like(angles), angles))
    gradients = torch.randn(3, clips, heads, tokens, head, generator=generator)
    return qkv.to(device, dtype).requires_grad_(), rotation.to(device), [g.to(device, dtype) for g in gradients]


def by_definition(qkv, rotation, heads):
    """Channel by channel, in double precision."""
    clips, tokens, channels = qkv.shape
    parts = qkv.reshape(clips, tokens, 3, heads, channels // 3 // heads).permute(2, 0, 3, 1, 4)
    rotation = rotation.double().expand(clips, -1, -1, -1, -1)[:, 0]
    turned = []
    for part in parts[:2]:
        columns = []
        for channel in range(part.shape[-1]):
            row = channel if rotation.shape[2] == part.shape[-1] else channel // 2
            cosine, sine = (rotation[:, :, row, turn].unsqueeze(1) for turn in (0, 1))
            other = part[..., channel ^ 1]
            columns.append(part[..., channel] * cosine + (other if channel % 2 else -other) * sine)
        turned.append(torch.stack(columns, -1))
    return *turned, parts[2]


SHAPES = [(2, 5, 3, 8), (1, 3, 1, 2), (2, 2, 2, 22), (2, 0, 3, 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("one_table", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_queries_and_keys_are_rotated_and_gradients_back(form, device, shape, per_channel, one_table, dtype):
    qkv, rotation, gradients = made(*shape, per_channel, one_table, dtype, device)
    heads = shape[2]
    ours = rotated_qkv(qkv, rotation, heads)
    exactly = qkv.detach().double().requires_grad_()
    expected = by_definition(exactly, rotation, heads)
    for x, y in zip(ours, expected, strict=True):
        assert x.dtype == dtype
        torch.testing.assert_close(x.double(), y, rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])
    assert torch.equal(ours[2].double(), expected[2])
    (gradient,) = torch.autograd.grad(ours, qkv, gradients)
    (of_definition,) = torch.autograd.grad(expected, exactly, [g.double() for g in gradients])
    torch.testing.assert_close(gradient.double(), of_definition, rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])


def test_gradients_of_any_layout_are_accepted(form, device):
    qkv, rotation, gradients = made(2, 4, 2, 8, False, False, torch.float32, device)
    expected = torch.autograd.grad(rotated_qkv(qkv, rotation, 2), qkv, gradients)
    across = [gradient.transpose(1, 3).contiguous().transpose(1, 3) for gradient in gradients]
    by_token = [gradient.transpose(1, 2).contiguous().transpose(1, 2) for gradient in gradients]
    for layout in (across, by_token):
        assert torch.equal(torch.autograd.grad(rotated_qkv(qkv, rotation, 2), qkv, layout)[0], expected[0])


def test_rotations_of_another_size_are_refused(device, monkeypatch):
    monkeypatch.setattr(rotary, "fused", lambda _: True)
    qkv, rotation, _ = made(2, 4, 2, 8, False, False, torch.float32, device)
    with pytest.raises(ValueError, match="rotations"):
        rotated_qkv(qkv, rotation[..., :3, :], 2)
