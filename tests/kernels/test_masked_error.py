import pytest
import torch

from hpc_jepa.kernels.masked_error import ROWS, masked_error, plain_masked_error


def made(batch=2, tokens=40, predicted=23, channels=24, dtype=torch.float32, seed=0):
    """Prediction [B, Q, D], features [B, N, D], token indices [B, Q] and a gradient of the errors [B, Q]."""
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(batch, predicted, channels, generator=generator).to(dtype)
    features = 3 * torch.randn(batch, tokens, channels, generator=generator) + 1
    chosen = torch.rand(batch, tokens, generator=generator).argsort(1)[:, :predicted].sort(1).values
    return prediction.requires_grad_(), features, chosen, torch.rand(batch, predicted, generator=generator)


def in_float64(prediction, features, tokens, gradient, levels):
    """Errors and the gradient of the prediction from their definition, token by token."""
    errors = torch.zeros(tokens.shape, dtype=torch.float64)
    slope = torch.zeros(prediction.shape, dtype=torch.float64)
    for b in range(tokens.shape[0]):
        for q in range(tokens.shape[1]):
            target = features[b, tokens[b, q]].double()
            if levels:
                parts = target.chunk(levels)
                target = torch.cat([(x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() for x in parts])
            difference = prediction[b, q].detach().double() - target
            errors[b, q] = difference.abs().mean()
            slope[b, q] = difference.sign() * gradient[b, q] / len(target)
    return errors, slope


SHAPES = [
    {},
    {"batch": 1, "tokens": 1, "predicted": 1, "channels": 4},
    {"batch": 3, "predicted": 40, "channels": 20},
    {"batch": 3, "tokens": ROWS + 6, "predicted": ROWS - 1, "channels": 20},
]


def on_the_device(device):
    """The Triton kernel, with its arguments moved to the device and its result back."""

    def apply(prediction, features, tokens, levels=0):
        from hpc_jepa.kernels.triton.masked_error import TritonMaskedError

        return TritonMaskedError.apply(*(x.to(device) for x in (prediction, features, tokens)), levels).cpu()

    return apply


@pytest.fixture(params=["fast", "plain", "triton"])
def form(request, device):
    """The three implementations."""
    return {"fast": masked_error, "plain": plain_masked_error, "triton": on_the_device(device)}[request.param]


@pytest.mark.parametrize("levels", [0, 1, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_errors_and_gradients_follow_the_definition(form, shape, dtype, levels):
    prediction, features, tokens, gradient = made(**shape, dtype=dtype)
    errors = form(prediction, features, tokens, levels)
    errors.backward(gradient)
    expected, slope = in_float64(prediction, features, tokens, gradient, levels)
    torch.testing.assert_close(errors.double(), expected, rtol=1e-5, atol=1e-6)
    rounding = 1e-5 if dtype == torch.float32 else 2**-7  # one unit: the interpreter cuts what a GPU rounds
    torch.testing.assert_close(prediction.grad.double(), slope, rtol=rounding, atol=1e-7)


@pytest.mark.parametrize("levels", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_half_precision_targets_are_compared_in_float32(form, dtype, levels):
    prediction, features, tokens, gradient = made(dtype=dtype)
    features = features.bfloat16()
    errors = form(prediction, features, tokens, levels)
    errors.backward(gradient)
    expected, slope = in_float64(prediction, features, tokens, gradient, levels)
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors.double(), expected, rtol=1e-5, atol=1e-6)
    rounding = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(prediction.grad.double(), slope, rtol=rounding, atol=1e-7)


def test_levels_of_unequal_width_are_refused(form):
    prediction, features, tokens, _ = made(channels=10)
    with pytest.raises(RuntimeError, match=r"shape|size"):
        form(prediction, features, tokens, 3)


def test_a_second_derivative_is_an_error(device):
    prediction, features, tokens, _ = made()
    for fast in (masked_error, on_the_device(device)):
        squared = fast(prediction, features, tokens).square().sum()
        (slope,) = torch.autograd.grad(squared, prediction, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            (slope + prediction).sum().backward()


def test_a_prediction_does_not_have_to_be_contiguous(form):
    prediction, features, tokens, gradient = made()
    across = prediction.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    form(across, features, tokens, 4).backward(gradient)
    _, slope = in_float64(prediction, features, tokens, gradient, 4)
    torch.testing.assert_close(across.grad.double(), slope, rtol=1e-5, atol=1e-7)


def test_features_that_require_a_gradient_receive_one():
    prediction, features, tokens, gradient = made()
    features.requires_grad_()
    masked_error(prediction, features, tokens).backward(gradient)
    assert features.grad is not None
    assert torch.equal(features.grad.abs().sum((1, 2)) > 0, torch.tensor([True, True]))


def test_nan_is_propagated(form):
    prediction, features, tokens, _ = made()
    features[1, tokens[1, 3]] = torch.nan
    errors = form(prediction, features, tokens, 4)
    assert errors.isnan().nonzero().tolist() == [[1, 3]]
