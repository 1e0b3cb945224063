import pytest
import torch

from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.kernels.rotary import rotate
from hpc_jepa.models.rotary import rotations
from hpc_jepa.types import TokenGrid

CPU = torch.device("cpu")


def reference(grid: TokenGrid, head_width: int) -> torch.Tensor:
    """Angles [N, head_width / 2] in double precision, token by token from the definition."""
    chunk = 2 * ((head_width // 3) // 2)
    rows = []
    for n in range(grid.tokens):
        t, y, x = n // grid.cells, n // grid.width % grid.height, n % grid.width
        positions = (t, y * 15 / (grid.height - 1), x * 15 / (grid.width - 1))
        angles = [p * 10000.0 ** (-2 * i / chunk) for p in positions for i in range(chunk // 2)]
        rows.append(angles + [0.0] * (head_width // 2 - len(angles)))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("head_width", [64, 32, 16, 88])
@pytest.mark.parametrize("grid", [TokenGrid(8, 14, 14), TokenGrid(4, 6, 4)])
def test_angles_follow_the_definition(grid, head_width):
    angles = reference(grid, head_width)
    expected = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
    torch.testing.assert_close(rotations(grid, head_width, CPU), expected, rtol=0, atol=4e-6)


def test_rotation_rotates_adjacent_channel_pairs():
    x = torch.randn(3, 8, dtype=torch.float64).float()
    angle = torch.rand(3, 4)
    turned = rotate(x, torch.stack((angle.cos(), angle.sin()), -1))
    a, b = x[:, 0::2], x[:, 1::2]
    torch.testing.assert_close(turned[:, 0::2], a * angle.cos() - b * angle.sin())
    torch.testing.assert_close(turned[:, 1::2], a * angle.sin() + b * angle.cos())


def test_scores_depend_on_distance_alone():
    grid = TokenGrid(4, 16, 16)  # a side of 16 is the reference: one unit per token
    query, key = torch.randn(2, 64).unbind()
    rotation = torch.view_as_real(rotations(grid, 64, CPU))

    def score(n: int, m: int) -> torch.Tensor:
        return rotate(query, rotation[n]) @ rotate(key, rotation[m])

    shift = 2 * grid.cells + 5 * grid.width + 3
    torch.testing.assert_close(score(0, 300), score(shift, 300 + shift), rtol=1e-4, atol=1e-4)


def test_angles_stay_exact_under_autocast():
    grid = TokenGrid(2, 13, 13)
    with torch.autocast("cpu", torch.bfloat16):
        table = rotations(grid, 64, CPU)
        turned = rotate(torch.ones(grid.tokens, 64, dtype=torch.bfloat16), torch.view_as_real(table))
    assert turned.dtype == torch.float32
    torch.testing.assert_close(table.angle().cos().double(), reference(grid, 64).cos(), rtol=0, atol=4e-6)


def test_a_side_of_one_token_is_at_the_origin():
    assert torch.isfinite(rotations(TokenGrid(2, 1, 1), 16, CPU).abs()).all()


@pytest.mark.parametrize("config", [EncoderConfig, PredictorConfig])
def test_heads_of_odd_width_are_refused(config):
    with pytest.raises(ValueError, match=r"\(36\).*\(4\)"):
        config(width=36, heads=4)
