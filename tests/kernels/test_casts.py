import pytest
import torch
from torch import nn

from hpc_jepa.kernels import casts
from hpc_jepa.kernels.casts import cast_layers


@pytest.fixture
def layers(monkeypatch):
    monkeypatch.setattr(casts, "fused", lambda _: True)
    torch.manual_seed(0)
    return [nn.Linear(5, 7), nn.Linear(7, 3)]


def test_copies_are_those_of_autocast_with_its_gradients(layers):
    x = torch.randn(4, 5)
    gradients = []
    for together in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            copies = cast_layers(layers, x) if together else [None, None]
            y = x
            for layer, copy in zip(layers, copies, strict=True):
                y = nn.functional.linear(y, *(copy or (layer.weight, layer.bias)))
        parameters = [p for layer in layers for p in layer.parameters()]
        gradients.append(torch.autograd.grad(y.float().square().sum(), parameters))
    for together, apart in zip(*gradients, strict=True):
        assert together.dtype == torch.float32 and torch.equal(together, apart)


def test_all_copies_are_made_in_one_operation(layers):
    with torch.profiler.profile() as profile, torch.autocast("cpu", torch.bfloat16):
        copies = cast_layers(layers, torch.randn(1, 5))
    assert [p.dtype for copy in copies for p in copy] == 4 * [torch.bfloat16]
    assert sum(event.count for event in profile.key_averages() if event.key == "aten::_foreach_copy_") == 1


def test_weights_are_not_cast_outside_autocast_nor_if_sharded(layers):
    assert cast_layers(layers, torch.randn(1, 5)) == [None, None]
    layers[1].weight.ds_tensor = torch.zeros(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert cast_layers(layers, torch.randn(1, 5)) == [None, None]


def test_weights_are_not_cast_on_a_cpu():
    with torch.autocast("cpu", torch.bfloat16):
        assert cast_layers([nn.Linear(2, 2)], torch.randn(1, 2)) == [None]
