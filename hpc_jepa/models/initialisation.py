"""Initial weights of encoder and predictor."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from hpc_jepa.models.block import Block

WEIGHT_STD = 0.02


@torch.no_grad()
def init_weights(network: nn.Module, blocks: Iterable[Block]) -> None:
    """Draw the weights of ``network`` from torch's global random state.

    What block i (from 1) adds to the residual path is divided by sqrt(2i): so many additions have been made by then.
    """
    network.apply(_initialise_layer)
    for number, block in enumerate(blocks, start=1):
        block.attention.output.weight.div_(math.sqrt(2 * number))
        block.mlp.output.weight.div_(math.sqrt(2 * number))


def _initialise_layer(layer: nn.Module) -> None:
    """Matrices and convolutions N(0, 0.02), biases 0; norms are born as gain 1 and bias 0.

    The published truncation at +-2 lies a hundred standard deviations out and is left away.
    """
    if isinstance(layer, nn.Linear | nn.Conv3d):
        nn.init.normal_(layer.weight, std=WEIGHT_STD)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
