import pytest
import torch

from hpc_jepa.kernels.patches import patches_at, patchify


@pytest.fixture(params=["plain", "triton"])
def form(request, device):
    """``patches_at`` in both implementations, on CPU tensors."""

    def triton(pixels, tokens, rotations, tubelet, patch):
        from hpc_jepa.kernels.triton.patches import patches_at_triton

        tensors = (tensor.to(device) for tensor in (pixels, tokens, rotations))
        return tuple(tensor.cpu() for tensor in patches_at_triton(*tensors, tubelet, patch))

    return {"plain": patches_at, "triton": triton}[request.param]


def patch_by_patch(pixels, tokens, tubelet, patch):
    """Patches [B, K, P], cut out one by one."""
    _, _, _, height, width = pixels.shape
    rows = []
    for clip, wanted in zip(pixels, tokens.tolist(), strict=True):
        cut = []
        for token in wanted:
            t, rest = divmod(token, height // patch * (width // patch))
            y, x = divmod(rest, width // patch)
            cube = clip[:, t * tubelet : (t + 1) * tubelet, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            cut.append(cube.flatten())
        rows.append(torch.stack(cut))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("shape", "tubelet", "patch"),
    [((2, 3, 4, 16, 24), 2, 8), ((3, 3, 6, 15, 10), 3, 5), ((1, 1, 1, 7, 7), 1, 7), ((2, 3, 1, 28, 14), 1, 14)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", [torch.complex64, torch.float32], ids=str)
def test_patches_and_rotations_belong_to_the_tokens(form, shape, tubelet, patch, dtype, kind):
    generator = torch.Generator().manual_seed(sum(shape))
    pixels = torch.randn(shape, generator=generator).to(dtype)
    count = shape[2] // tubelet * (shape[3] // patch) * (shape[4] // patch)
    tokens = torch.rand(shape[0], count, generator=generator).argsort(1)[:, : max(1, count // 2)]
    rotations = torch.randn(count, 11, generator=generator, dtype=kind)
    patches, rotated = form(pixels, tokens, rotations, tubelet, patch)
    assert torch.equal(patches, patch_by_patch(pixels, tokens, tubelet, patch))
    assert torch.equal(rotated, torch.stack([rotations[row] for row in tokens]))


def test_pixels_do_not_have_to_be_contiguous(form):
    pixels = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    tokens, rotations = torch.tensor([[7, 0, 3], [1, 1, 6]]), torch.randn(8, 2)
    patches, _ = form(pixels, tokens, rotations, 2, 4)
    assert torch.equal(patches, patch_by_patch(pixels, tokens, 2, 4))


def test_patches_are_in_raster_order():
    pixels = torch.randn(2, 3, 4, 6, 9, generator=torch.Generator().manual_seed(0))
    everyone = torch.arange(12).expand(2, -1)
    assert torch.equal(patchify(pixels, 2, 3), patch_by_patch(pixels, everyone, 2, 3))


def test_pixels_that_require_a_gradient_receive_one():
    pixels = torch.randn(1, 3, 2, 4, 4, requires_grad=True)
    patches, _ = patches_at(pixels, torch.tensor([[2]]), torch.zeros(4, 1), 2, 2)
    patches.sum().backward()
    assert pixels.grad[..., 2:, :2].eq(1).all() and pixels.grad.sum() == 24
