"""Token embeddings: patch projection, modality embedding and mask tokens.

Each is a module of its own because ZeRO-3 gathers parameters only for the forward pass of their module. Parameters
that the published model allocates but never uses are kept, so that its weights load, and frozen, so that weight decay
does not change them. With image batches the image embeddings are trained too. Unused embeddings are then added with
weight 0, so that every parameter has a gradient on every rank in every step (ZeRO requires that).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpc_jepa.kernels.casts import cast_layers

MODALITY_STD = 1e-6


class PatchProjection(nn.Conv3d):
    """A 3-D convolution whose stride equals its kernel, computed as a linear layer on patches.

    Only the patches of the selected tokens are projected, by a matrix product instead of a convolution.
    """

    def __init__(self, width: int, tubelet: int, patch: int) -> None:
        kernel = (tubelet, patch, patch)
        super().__init__(3, width, kernel_size=kernel, stride=kernel)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches [B, M, 3 * tubelet * patch * patch] -> [B, M, width]."""
        (copy,) = cast_layers([self], patches)
        weight, bias = copy or (self.weight, self.bias)
        return F.linear(patches, weight.flatten(1), bias)


class PatchEmbedding(nn.Module):
    """Tokens from the tubelet-patches of a video, or the patches of an image."""

    def __init__(self, width: int, tubelet: int, patch: int) -> None:
        super().__init__()
        self.video = PatchProjection(width, tubelet, patch)
        self.image = PatchProjection(width, 1, patch).requires_grad_(False)

    def forward(self, patches: Tensor, image: bool = False) -> Tensor:
        """Patches [B, M, 3 * tubelet * patch * patch], of images [B, M, 3 * patch * patch] -> [B, M, width]."""
        used, unused = (self.image, self.video) if image else (self.video, self.image)
        tokens: Tensor = used(patches)
        if self.image.weight.requires_grad:
            tokens = tokens + 0 * unused(patches.new_zeros(unused.weight[0].numel()))
        return tokens


class ModalityEmbedding(nn.Module):
    """A learned embedding of "video" or "image", added to every token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.video = nn.Parameter(torch.empty(1, 1, width).normal_(std=MODALITY_STD))
        self.image = nn.Parameter(torch.empty(1, 1, width).normal_(std=MODALITY_STD), requires_grad=False)

    def forward(self, x: Tensor, image: bool = False) -> Tensor:
        """[B, N, width] -> [B, N, width], of the same dtype."""
        used, unused = (self.image, self.video) if image else (self.video, self.image)
        return x + (used + 0 * unused if self.image.requires_grad else used).to(x.dtype)


class MaskTokens(nn.Module):
    """Learned embeddings of masked tokens; only the first is used, by all mask groups (B20)."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        for index in range(count):
            self.register_parameter(str(index), nn.Parameter(torch.zeros(1, 1, width), requires_grad=index == 0))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token indexes [B, Q] -> [B, Q, width]."""
        return self.get_parameter("0").expand(*tokens.shape, -1)
