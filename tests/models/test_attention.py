import pytest
import torch

from hpc_jepa.kernels.rotary import rotate
from hpc_jepa.models.block import Attention
from hpc_jepa.models.rotary import rotations
from hpc_jepa.types import TokenGrid

GRID = TokenGrid(2, 4, 4)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return Attention(width=64, heads=2)


def reference(attention: Attention, x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Head by head in double precision."""
    weight, bias = attention.qkv.weight.double(), attention.qkv.bias.double()
    query, key, value = (x.double() @ weight.T + bias).chunk(3, dim=-1)
    heads = []
    for part in (slice(0, 32), slice(32, 64)):
        q, k = (rotate(z[..., part].float(), torch.view_as_real(rotation)).double() for z in (query, key))
        heads.append((q @ k.mT / 32**0.5).softmax(-1) @ value[..., part])
    return torch.cat(heads, -1) @ attention.proj.weight.double().T + attention.proj.bias.double()


@torch.no_grad()
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_both_precisions_compute_softmax_attention(attention, precision, tolerance):
    x = torch.randn(2, GRID.tokens, 64)
    rotation = rotations(GRID, 32, x.device)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        y = attention(x, torch.view_as_real(rotation[None, None]), [GRID.tokens])
    assert y.dtype == precision
    torch.testing.assert_close(y.double(), reference(attention, x, rotation), rtol=0, atol=tolerance)
