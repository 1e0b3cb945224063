"""Where tokens come from: patches of a clip, the modality vector, and the vector that stands for hidden tokens.

Each is a module of its own because sharded parameters (ZeRO-3) are only whole inside their module's forward pass.
What the published model allocates but never uses is kept, so that its weights load, and frozen, so that no optimizer
decays it. Where images make batches of their own, what belongs to images is trained; then whatever a batch does not use
takes part with weight zero, so that every parameter has a gradient in every step and processes agree which have one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODALITY_STD = 1e-6


class PatchProjection(nn.Conv3d):
    """A convolution whose stride is its kernel, computed as what it is: one linear map per patch.

    So only the patches of wanted tokens are multiplied, by a matrix product rather than a convolution kernel.
    """

    def __init__(self, width: int, tubelet: int, patch: int) -> None:
        kernel = (tubelet, patch, patch)
        super().__init__(3, width, kernel_size=kernel, stride=kernel)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches [B, M, 3 * tubelet * patch * patch] -> [B, M, width]."""
        return F.linear(patches, self.weight.flatten(1), self.bias)


class PatchEmbedding(nn.Module):
    """Tubelet-patches of a video, or patches of an image, as tokens."""

    def __init__(self, width: int, tubelet: int, patch: int) -> None:
        super().__init__()
        self.video = PatchProjection(width, tubelet, patch)
        self.image = PatchProjection(width, 1, patch).requires_grad_(False)

    def forward(self, patches: Tensor, image: bool = False) -> Tensor:
        """Patches [B, M, 3 * tubelet * patch * patch], of images [B, M, 3 * patch * patch] -> [B, M, width]."""
        used, idle = (self.image, self.video) if image else (self.video, self.image)
        tokens: Tensor = used(patches)
        if self.image.weight.requires_grad:
            tokens = tokens + 0 * idle(patches.new_zeros(idle.weight[0].numel()))
        return tokens


class ModalityEmbedding(nn.Module):
    """A learned vector that says "video" or "image", added to every token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.video = nn.Parameter(torch.empty(1, 1, width).normal_(std=MODALITY_STD))
        self.image = nn.Parameter(torch.empty(1, 1, width).normal_(std=MODALITY_STD), requires_grad=False)

    def forward(self, x: Tensor, image: bool = False) -> Tensor:
        """[B, N, width] -> [B, N, width], of the same dtype."""
        used, idle = (self.image, self.video) if image else (self.video, self.image)
        return x + (used + 0 * idle if self.image.requires_grad else used).to(x.dtype)


class MaskTokens(nn.Module):
    """Learned vectors that stand for hidden tokens; only the first is used, by all mask groups (B20)."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        for index in range(count):
            self.register_parameter(str(index), nn.Parameter(torch.zeros(1, 1, width), requires_grad=index == 0))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token indexes [B, Q] -> [B, Q, width]."""
        return self.get_parameter("0").expand(*tokens.shape, -1)
