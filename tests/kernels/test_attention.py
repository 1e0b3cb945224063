"""Attention against its formula in float64, gradients included."""

import math

import pytest
import torch

from hpc_jepa.kernels.attention import LONG, attention


def in_float64(query, key, value):
    query, key, value = (x.detach().double().requires_grad_() for x in (query, key, value))
    attended = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1) @ value
    return attended, (query, key, value)


@pytest.mark.parametrize("tokens", [1, 7, LONG - 1, LONG, LONG + 45])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_values_and_gradients_are_those_of_the_formula(tokens, dtype, tolerance):
    torch.manual_seed(tokens)
    # As attention gets them: views of one product, heads apart.
    inputs = torch.randn(3, 2, tokens, 3, 24).to(dtype).transpose(2, 3).unbind()
    inputs = [x.requires_grad_() for x in inputs]
    direction = torch.randn(2, 3, tokens, 24).to(dtype)
    attended = attention(*inputs)
    gradients = torch.autograd.grad(attended, inputs, direction)
    expected, doubles = in_float64(*inputs)
    expected_gradients = torch.autograd.grad(expected, doubles, direction.double())

    assert attended.dtype == dtype
    assert attended.shape == direction.shape
    for got, wanted in zip((attended, *gradients), (expected, *expected_gradients), strict=True):
        error = (got.double() - wanted).norm() / wanted.norm().clamp(min=1)  # of one token the gradient is 0
        assert error < tolerance, error


def one_after_the_other(query, key, value):
    return (query / math.sqrt(query.shape[-1]) @ key.transpose(-2, -1)).softmax(-1) @ value


def test_long_bf16_sequences_are_as_exact_as_the_operations_one_after_the_other():
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 300, 32, dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    direction = torch.randn(2, 2, 300, 32, dtype=torch.bfloat16)
    expected, doubles = in_float64(*inputs)
    wanted = (expected, *torch.autograd.grad(expected, doubles, direction.double()))

    def errors(function):
        attended = function(*inputs)
        got = (attended, *torch.autograd.grad(attended, inputs, direction))
        return [(x.double() - y).norm() / y.norm() for x, y in zip(got, wanted, strict=True)]

    plain = errors(one_after_the_other)
    assert all(ours <= 1.05 * theirs for ours, theirs in zip(errors(attention), plain, strict=True))


def test_the_same_inputs_give_the_same_bits():
    inputs = [torch.randn(2, 2, 300, 32, dtype=torch.bfloat16) for _ in range(3)]
    assert torch.equal(attention(*inputs), attention(*inputs))
