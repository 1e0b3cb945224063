"""The transformer block of encoder and predictor: multi-head attention and MLP, and their initialisation."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.kernels.casts import Affine, cast_layers
from hpc_jepa.kernels.layer_norm import add_layer_norm
from hpc_jepa.kernels.rotary import rotated_qkv

NORM_EPS = 1e-6
WEIGHT_STD = 0.02


Copies = Sequence[Affine | None]
"""Cast weights of some linear layers; None: the layer's own."""


class Linear(nn.Linear):
    """A linear layer that computes with a cast copy of its weight and bias where it is given one."""

    def forward(self, x: Tensor, copy: Affine | None = None) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return F.linear(x, *(copy or (self.weight, self.bias)))


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis, fused with the residual addition before it."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=NORM_EPS)

    def forward(self, x: Tensor, update: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """``x + update`` and its norm, for x and update [..., width]; without an update, ``x`` and its norm."""
        return add_layer_norm(x, update, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """Full bidirectional attention; queries and keys are rotated by their token's position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor, groups: Sequence[int], copies: Copies = (None, None)) -> Tensor:
        """Features [B, N, width] and rotations [B or 1, 1, N, head_width (/ 2), 2] -> [B, N, width].

        groups: numbers of tokens that add up to N; tokens attend only within their group. copies: cast weights of
        ``qkv`` and ``proj``.
        """
        query, key, value = rotated_qkv(self.qkv(x, copies[0]), rotation, self.heads)
        parts = zip(*(x.split(groups, dim=2) for x in (query, key, value)), strict=True)  # type: ignore[no-untyped-call]
        attended = [rearrange(F.scaled_dot_product_attention(*part), "b heads n d -> b n (heads d)") for part in parts]
        joined = torch.cat(attended, dim=1) if len(attended) > 1 else attended[0]
        return self.proj(joined, copies[1])  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = Linear(inputs, hidden)
        self.fc2 = Linear(hidden, outputs)

    def forward(self, x: Tensor, copies: Copies = (None, None)) -> Tensor:
        """[..., inputs] -> [..., outputs]. copies: cast weights of both layers."""
        return self.fc2(F.gelu(self.fc1(x, copies[0])), copies[1])  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a residual connection.

    ``recompute``: activation checkpointing. In training only the block's input is kept and the block runs again in the
    backward pass.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = LayerNorm(width)
        self.mlp = MLP(width, round(width * mlp_ratio), width)

    def forward(self, x: Tensor, rotation: Tensor, groups: Sequence[int], copies: Copies | None = None) -> Tensor:
        """Features [B, N, width] and rotations [B or 1, 1, N, head_width (/ 2), 2] -> [B, N, width].

        groups: numbers of tokens that add up to N; tokens attend only within their group. copies: cast weights of
        ``linear_layers``, if they are not to be cast here.
        """
        if self.recompute and self.training and x.requires_grad:
            return checkpoint(self._transform, x, rotation, groups, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
        return self._transform(x, rotation, groups, copies)

    @property
    def linear_layers(self) -> tuple[nn.Linear, ...]:
        """The linear layers, first to last."""
        return self.attn.qkv, self.attn.proj, self.mlp.fc1, self.mlp.fc2

    def _transform(self, x: Tensor, rotation: Tensor, groups: Sequence[int], copies: Copies | None = None) -> Tensor:
        copies = cast_layers(self.linear_layers, x) if copies is None else copies
        _, normed = self.norm1(x)
        x, normed = self.norm2(x, self.attn(normed, rotation, groups, copies[:2]))
        return x + self.mlp(normed, copies[2:])  # type: ignore[no-any-return]


def cast_blocks(blocks: Sequence[Block], x: Tensor) -> list[Copies | None]:
    """Cast weights for each block, or None where it casts its own.

    Without gradients all blocks are cast together. With gradients each block casts its own, so that its gradients are
    complete, and can be reduced, when its backward pass ends.
    """
    if torch.is_grad_enabled():
        return [None] * len(blocks)
    layers = [layer for block in blocks for layer in block.linear_layers]
    copies, of_block = cast_layers(layers, x), len(layers) // len(blocks)
    return [copies[start : start + of_block] for start in range(0, len(layers), of_block)]


def exclude_cudnn_attention() -> None:
    """Let PyTorch choose among flash, memory-efficient and plain attention on a GPU, in this process from now on.

    PyTorch prefers cuDNN on Hopper and Blackwell. cuDNN builds an execution plan for every new number of tokens, tens
    of milliseconds each for forward and backward pass, and keeps it. Masks bring hundreds of such numbers in a run.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def build_blocks(config: EncoderConfig | PredictorConfig, recompute: bool) -> list[Block]:
    """The blocks of one network, first to last."""
    return [Block(config.width, config.heads, config.mlp_ratio, recompute) for _ in range(config.depth)]


@torch.no_grad()
def init_weights(network: nn.Module, blocks: Iterable[Block]) -> None:
    """Draw the weights of ``network`` from torch's global random state.

    The two projections of block i (from 1) that end in the residual stream are scaled by 1 / sqrt(2 i), so that the
    stream does not grow with depth.
    """
    network.apply(_init_layer)
    for number, block in enumerate(blocks, start=1):
        block.attn.proj.weight.div_(math.sqrt(2 * number))
        block.mlp.fc2.weight.div_(math.sqrt(2 * number))


def _init_layer(layer: nn.Module) -> None:
    """Linear layers and convolutions N(0, 0.02), biases 0; norms keep gain 1 and bias 0.

    The published truncation at +-2 is a hundred standard deviations away and is omitted.
    """
    if isinstance(layer, nn.Linear | nn.Conv3d):
        nn.init.normal_(layer.weight, std=WEIGHT_STD)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
