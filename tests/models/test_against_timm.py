"""A block without rotation equals timm's vision transformer block, parameter names included."""

import importlib

import pytest
import torch

from hpc_jepa.models.block import Block


@pytest.mark.parametrize("recompute", [False, True])
def test_an_unrotated_block_equals_the_block_of_timm(torchvision_operators, recompute):
    timm = importlib.import_module("timm.models.vision_transformer")
    torch.manual_seed(0)
    theirs = timm.Block(64, num_heads=4, mlp_ratio=4, qkv_bias=True)
    for norm in (theirs.norm1, theirs.norm2):
        norm.eps = 1e-6
        torch.nn.init.normal_(norm.weight, 1.0, 0.2)
    ours = Block(64, heads=4, mlp_ratio=4.0, recompute=recompute)
    ours.load_state_dict(theirs.state_dict())

    x = torch.randn(2, 10, 64, requires_grad=True)
    still = torch.tensor([1.0, 0.0]).expand(1, 1, 10, 8, 2)
    outputs = ours(x, still, [10]), theirs(x)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in outputs]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-4)
