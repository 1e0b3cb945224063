import pytest
import torch

from hpc_jepa.kernels import layer_norm
from hpc_jepa.kernels.layer_norm import add_layer_norm, level_norms

EPS = 1e-6
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Relative; one unit of the half precisions, as the interpreter cuts what a GPU rounds."""


@pytest.fixture(params=["plain", "triton"])
def form(request, device, monkeypatch):
    """The two implementations."""
    monkeypatch.setattr(layer_norm, "fused", lambda _: request.param == "triton")
    return request.param


def made(shape, dtype, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(shape, generator=generator) + torch.randn(shape[:-1], generator=generator).unsqueeze(-1)
    weight, bias = 1 + torch.randn(2, shape[-1], generator=generator) / 4
    return x.to(device, dtype), weight.to(device), bias.to(device)


def exact(x, weight, bias):
    """The definition, in double precision."""
    x = x.double()
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double() + bias.double()


def close(ours, exactly, dtype):
    scale = exactly.abs().max().clamp(min=1)
    torch.testing.assert_close(ours.double() / scale, exactly / scale, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 24), (1, 1, 4), (1, 5, 300)], ids=str)
def test_the_norm_of_a_sum_and_its_gradients_follow_the_definition(form, device, shape, dtype):
    x, weight, bias = made(shape, dtype, device)
    update = made(shape, dtype, device, seed=1)[0]
    inputs = [tensor.requires_grad_() for tensor in (x, update, weight, bias)]
    total, normed = (y.to(dtype) for y in add_layer_norm(*inputs[:2], weight, bias, EPS))
    close(total, x.double() + update.double(), dtype)
    of_total, of_normed = (made(shape, dtype, device, seed)[0] for seed in (2, 3))
    gradients = torch.autograd.grad((total, normed), inputs, (of_total, of_normed))

    total = total.detach().double().requires_grad_()
    affine = [weight.detach().double().requires_grad_(), bias.detach().double().requires_grad_()]
    expected = exact(total, *affine)
    close(normed, expected, dtype)
    of_sum, *of_affine = torch.autograd.grad(expected, [total, *affine], of_normed.double())
    of_sum += of_total.double()
    for ours, exactly in zip(gradients, (of_sum, of_sum, *of_affine), strict=True):
        close(ours, exactly, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_without_an_update_the_input_is_normed(form, device, dtype):
    x, weight, bias = made((2, 5, 40), dtype, device)
    x.requires_grad_()
    same, normed = add_layer_norm(x, None, weight, bias, EPS)
    assert same is x
    close(normed, exact(x, weight, bias), dtype)


def test_the_kernel_returns_the_dtype_of_its_input(device, monkeypatch):
    monkeypatch.setattr(layer_norm, "fused", lambda _: True)
    x, weight, bias = made((2, 3, 8), torch.bfloat16, device)
    assert [y.dtype for y in add_layer_norm(x, x, weight, bias, EPS)] == [torch.bfloat16, torch.bfloat16]
    assert add_layer_norm(x, None, weight, bias, EPS)[1].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_levels_are_normed_side_by_side_in_float32(form, device, dtype):
    parts = [made((2, 4, 20), dtype, device, seed) for seed in range(3)]
    levels, weights, biases = zip(*parts, strict=True)
    inputs = [tensor.requires_grad_() for tensor in (*levels, *weights, *biases)]
    normed = level_norms(levels, weights, biases, EPS)
    assert normed.shape == (2, 4, 60) and normed.dtype == torch.float32
    gradient = made((2, 4, 60), torch.float32, device, seed=7)[0]
    gradients = torch.autograd.grad(normed, inputs, gradient)

    exactly = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = torch.cat([exact(*exactly[level::3]) for level in range(3)], -1)
    close(normed, expected, torch.float32)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, exactly, gradient.double()), strict=True):
        close(ours, theirs, ours.dtype)


def test_rows_of_any_layout_are_accepted(form, device):
    x, weight, bias = made((4, 3, 16), torch.float32, device)
    _, expected = add_layer_norm(x, x, weight, bias, EPS)
    _, normed = add_layer_norm(x.transpose(0, 1), x.transpose(0, 1), weight, bias, EPS)
    torch.testing.assert_close(normed.transpose(0, 1), expected)


def test_the_backward_pass_covers_more_rows_than_programs(device, monkeypatch):
    from hpc_jepa.kernels.triton import layer_norm as kernels

    monkeypatch.setattr(kernels, "PARTIAL_SUMS", 4)
    monkeypatch.setattr(layer_norm, "fused", lambda _: True)
    x, weight, bias = made((1, 11, 8), torch.float32, device)
    weight.requires_grad_()
    add_layer_norm(x, None, weight, bias, EPS)[1].sum().backward()
    expected = exact(x, torch.ones_like(weight), torch.zeros_like(bias)).sum((0, 1))
    torch.testing.assert_close(weight.grad.double(), expected, rtol=1e-5, atol=1e-5)
