import pytest
import torch

from hpc_jepa.kernels.motion import average_motion, block_scores
from hpc_jepa.types import TokenGrid


@pytest.fixture(params=["plain", "triton"])
def averages(request, device):
    """``average_motion`` in both implementations, on CPU tensors."""

    def triton(pixels, grid):
        from hpc_jepa.kernels.triton.motion import average_motion_triton

        return average_motion_triton(pixels.to(device), grid).cpu()

    return {"plain": average_motion, "triton": triton}[request.param]


@pytest.fixture(params=["plain", "triton"])
def scores(request, device):
    """``block_scores`` in both implementations, on CPU tensors."""

    def triton(motion, size):
        from hpc_jepa.kernels.triton.motion import block_scores_triton

        return block_scores_triton(motion.to(device), size).cpu()

    return {"plain": block_scores, "triton": triton}[request.param]


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((2, 3, 16, 32, 32), TokenGrid(8, 2, 2)),
        ((3, 3, 6, 15, 21), TokenGrid(3, 3, 7)),
        ((1, 1, 2, 7, 5), TokenGrid(1, 1, 1)),
        ((2, 3, 3, 8, 12), TokenGrid(3, 4, 3)),
        ((1, 3, 12, 14, 14), TokenGrid(3, 1, 2)),
    ],
    ids=str,
)
def test_motion_is_the_mean_difference_inside_a_tubelet_patch(averages, shape, grid):
    pixels = 5 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    change = (pixels.double()[:, :, 1:] - pixels.double()[:, :, :-1]).abs()
    change = torch.cat([change[:, :, :1], change], dim=2)
    expected = torch.nn.functional.avg_pool3d(
        change.mean(1), tuple(s // g for s, g in zip(shape[2:], [grid.time, grid.height, grid.width], strict=True))
    )
    found = averages(pixels, grid)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


def test_pixels_do_not_have_to_be_contiguous(averages):
    pixels = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    grid = TokenGrid(2, 2, 2)
    torch.testing.assert_close(averages(pixels, grid), averages(pixels.contiguous(), grid), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.uint8], ids=str)
def test_pixels_of_every_type_are_averaged_in_float32(averages, dtype):
    pixels = torch.randint(0, 256, (2, 3, 4, 6, 10), generator=torch.Generator().manual_seed(0)).to(dtype)
    grid = TokenGrid(2, 3, 5)
    torch.testing.assert_close(averages(pixels, grid), averages(pixels.float(), grid), rtol=1e-6, atol=0)


def test_a_nan_pixel_affects_only_its_own_patch(averages):
    pixels = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels[1, 2, 3, 5, 2] = torch.nan
    assert averages(pixels, TokenGrid(2, 2, 2)).isnan().nonzero().tolist() == [[1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ((8, 14, 14), (8, 5, 6)),
        ((4, 7, 5), (2, 3, 5)),
        ((1, 1, 3), (1, 1, 2)),
        ((3, 6, 9), (1, 1, 1)),
        ((5, 3, 4), (5, 3, 4)),
    ],
)
def test_scores_are_the_mean_motion_of_each_block(scores, sides, size):
    motion = torch.rand(3, *sides, generator=torch.Generator().manual_seed(sum(sides)))
    expected = torch.nn.functional.avg_pool3d(motion.double().unsqueeze(1), size, stride=1).flatten(1)
    found = scores(motion, size)
    assert found.shape == (3, torch.tensor(TokenGrid(*sides).origin_counts(size)).prod())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
