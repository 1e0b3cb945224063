import copy

import torch
from torch import nn

from hpc_jepa.training.ema import TargetEMA, pack_parameters


def networks(seed=0):
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3, bias=False), nn.LayerNorm(3))
    target = copy.deepcopy(student).requires_grad_(False)
    shaken(student)
    return student, target


@torch.no_grad()
def shaken(network):
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter))


def expected(student, target, momentum):
    """The definition, tensor by tensor."""
    return [
        torch.lerp(t.clone(), s.detach(), 1 - momentum)
        for s, t in zip(student.parameters(), target.parameters(), strict=True)
    ]


def test_the_average_is_a_lerp_wherever_the_student_lies():
    student, target = networks()
    ema = TargetEMA(student, target)
    for step, rearrange in enumerate(
        [
            lambda: None,
            lambda: pack_parameters(list(student.parameters())),
            lambda: pack_parameters(list(reversed(list(student[0].parameters())))),
            lambda: setattr(student[2].weight, "data", student[2].weight.data.clone()),
        ]
    ):
        rearrange()
        shaken(student)
        wanted = expected(student, target, 0.9 + 0.01 * step)
        ema.update(0.9 + 0.01 * step)
        for parameter, value in zip(target.parameters(), wanted, strict=True):
            assert torch.equal(parameter, value)


def test_a_student_in_one_piece_makes_one_stretch():
    student, target = networks()
    memory = pack_parameters(list(student.parameters()))
    assert memory.numel() == sum(p.numel() for p in student.parameters())
    TargetEMA(student, target).update(0.5)
    first = target[0].weight.untyped_storage().data_ptr()
    assert all(parameter.untyped_storage().data_ptr() == first for parameter in target.parameters())


def test_laying_out_keeps_values_gradients_and_identity():
    student, _ = networks()
    before = [(p, p.detach().clone()) for p in student.parameters()]
    pack_parameters(list(student.parameters()))
    student(torch.randn(2, 7)).sum().backward()
    for (parameter, value), now in zip(before, student.parameters(), strict=True):
        assert now is parameter and torch.equal(now, value) and now.grad is not None
