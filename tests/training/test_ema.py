import copy

import torch
from torch import nn

from hpc_jepa.training.ema import TargetEMA


def test_the_ema_is_a_lerp_of_every_parameter():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3, bias=False), nn.LayerNorm(3))
    target = copy.deepcopy(student).requires_grad_(False)
    ema = TargetEMA(student, target)
    for momentum in (0.9, 0.91, 1.0, 0.0):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        expected = [
            torch.lerp(t.clone(), s.detach(), 1 - momentum)
            for s, t in zip(student.parameters(), target.parameters(), strict=True)
        ]
        ema.update(momentum)
        assert all(map(torch.equal, target.parameters(), expected))


def test_the_ema_follows_parameters_that_are_moved():
    """As at stage 0 on a GPU, where DeepSpeed moves the module; a change of type moves parameters likewise."""
    model = nn.ModuleDict({"student": nn.Linear(4, 4), "target": nn.Linear(4, 4)})
    ema = TargetEMA(model["student"], model["target"])
    model.to(torch.float64)
    ema.update(0.0)
    assert model["target"].weight.dtype == torch.float64
    assert torch.equal(model["target"].weight, model["student"].weight)
