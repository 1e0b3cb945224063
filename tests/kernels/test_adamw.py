import pytest
import torch

from hpc_jepa.kernels.adamw import adamw_average_

SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.04}
SIZES = [1, 17, 1023, 1024, 2049, 5000]
NAMES = ("parameter", "mean", "square", "target")


def made(elements, seed=0):
    """Parameter, moments and target [N] before the first update."""
    generator = torch.Generator().manual_seed(seed)
    parameter, target = torch.randn(2, elements, generator=generator)
    return {"parameter": parameter, "mean": torch.zeros(elements), "square": torch.zeros(elements), "target": target}


def gradients(elements, steps, seed=1):
    """Large and small ones side by side."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, elements, generator=generator) * 10 ** (4 * torch.rand(elements, generator=generator) - 4)


def scalar(number):
    return torch.tensor(float(number))


def on_the_device(device):
    """The kernel, with its arguments and what it changes moved there and back."""

    def apply(*buffers, step, skip, lr, betas, eps, weight_decay, momentum):
        from hpc_jepa.kernels.triton.adamw import one_pass

        there = [buffer.to(device) for buffer in (*buffers, step, skip)]
        one_pass(*there[:6], lr, betas, eps, weight_decay, momentum, there[6])
        for here, moved in zip((*buffers, step), there[:6], strict=True):
            here.copy_(moved)

    return apply


@pytest.fixture(params=["fast", "triton"])
def form(request, device):
    return {"fast": adamw_average_, "triton": on_the_device(device)}[request.param]


def run(form, state, slopes, momentum, step=0, skipped=(), **settings):
    """What is left after one update per row of ``slopes``, and the count of updates."""
    count = scalar(step)
    for number, slope in enumerate(slopes):
        form(
            state["parameter"],
            slope,
            state["mean"],
            state["square"],
            state["target"],
            step=count,
            skip=scalar(number in skipped),
            momentum=momentum,
            **(SETTINGS | settings),
        )
    return state, count.item()


def in_float64(state, slopes, momentum, step=0, **settings):
    """The algorithm as its authors print it."""
    chosen = SETTINGS | settings
    lr, (beta1, beta2), eps = chosen["lr"], chosen["betas"], chosen["eps"]
    x, m, v, average = (state[name].double() for name in NAMES)
    for number, slope in enumerate(slopes.double(), step + 1):
        m = beta1 * m + (1 - beta1) * slope
        v = beta2 * v + (1 - beta2) * slope**2
        corrected = (m / (1 - beta1**number)) / ((v / (1 - beta2**number)).sqrt() + eps)
        x = x - lr * (corrected + chosen["weight_decay"] * x)
        average = momentum * average + (1 - momentum) * x
    return dict(zip(NAMES, (x, m, v, average), strict=True))


def assert_close(state, expected):
    for name in NAMES:
        torch.testing.assert_close(
            state[name].double(), expected[name], rtol=2e-6, atol=1e-6 * expected[name].abs().max().item()
        )


@pytest.mark.parametrize("elements", SIZES)
def test_updates_and_average_follow_the_definition(form, elements):
    slopes = gradients(elements, steps=5)
    state, count = run(form, made(elements), slopes, momentum=0.99)
    assert_close(state, in_float64(made(elements), slopes, momentum=0.99))
    assert count == 5


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.5, 0.99925, 1.0])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.0}, {"betas": (0.0, 0.95), "eps": 1e-3}], ids=str)
def test_any_settings_and_any_momentum_follow_the_definition(form, momentum, settings):
    slopes = gradients(300, steps=3)
    state, _ = run(form, made(300), slopes, momentum, step=1000, **settings)
    assert_close(state, in_float64(made(300), slopes, momentum, step=1000, **settings))


def test_a_momentum_of_nought_copies_and_one_of_one_keeps(form):
    slopes = gradients(300, steps=1)
    copied, _ = run(form, made(300), slopes, momentum=0.0)
    kept, _ = run(form, made(300), slopes, momentum=1.0)
    assert torch.equal(copied["target"], copied["parameter"])
    assert torch.equal(kept["target"], made(300)["target"])


def test_a_skipped_step_moves_the_target_alone(form):
    slopes = gradients(1030, steps=3)
    slopes[1] = torch.nan
    state, count = run(form, made(1030), slopes, momentum=0.9, skipped={1})
    two, _ = run(form, made(1030), slopes[[0, 2]], momentum=0.9)
    assert count == 2
    for name in ("parameter", "mean", "square"):
        assert torch.equal(state[name], two[name])
    first, _ = run(form, made(1030), slopes[:1], momentum=0.9)
    target = first["target"]
    for parameter in (first["parameter"], state["parameter"]):
        target = 0.9 * target + 0.1 * parameter
    torch.testing.assert_close(state["target"], target)


def test_a_gradient_that_is_no_number_is_not_hidden(form):
    slopes = gradients(40, steps=1)
    slopes[0, 7] = torch.nan
    state, _ = run(form, made(40), slopes, momentum=0.9)
    assert state["parameter"].isnan().nonzero().tolist() == [[7]]
    assert state["target"].isnan().nonzero().tolist() == [[7]]


@pytest.mark.parametrize("elements", SIZES)
def test_on_a_cpu_it_is_the_optimizer_of_pytorch_to_the_bit(elements):
    slopes = gradients(elements, steps=20)
    parameter = torch.nn.Parameter(made(elements)["parameter"])
    target = made(elements)["target"]
    optimizer = torch.optim.AdamW([parameter], **SETTINGS, fused=True)
    for slope in slopes:
        parameter.grad = slope
        optimizer.step()
        target.lerp_(parameter.detach(), 1 - 0.99)
    state, count = run(adamw_average_, made(elements), slopes, momentum=0.99)
    theirs = optimizer.state[parameter]
    assert count == theirs["step"].item()
    for name, value in zip(NAMES, (parameter, theirs["exp_avg"], theirs["exp_avg_sq"], target), strict=True):
        assert torch.equal(state[name], value)
