"""One compiled program serves all blocks and all numbers of tokens, with the features and gradients of plain blocks.

Usage: compiled_blocks.py ROTARY
"""

import sys

import torch
from torch._dynamo.utils import counters

from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.training.engine import compile_blocks


def main(rotary):
    config = EncoderConfig(width=32, depth=3, heads=2, patch=8, levels=(1, 3), rotary=rotary)
    plain, compiled = (seeded(config) for _ in range(2))
    compile_blocks(compiled)
    pixels = torch.randn(2, 3, 8, 32, 32)
    for count in (9, 13, 22, 40):
        tokens = torch.stack([torch.randperm(64)[:count].sort().values for _ in range(2)])
        groups = [count - 4, 4]
        features, expected = compiled(pixels, tokens, groups), plain(pixels, tokens, groups)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        for encoder, made in ((plain, expected), (compiled, features)):
            encoder.zero_grad()
            made.square().sum().backward()
        for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
            if theirs.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def seeded(config):
    torch.manual_seed(0)
    return Encoder(config)


if __name__ == "__main__":
    main(sys.argv[1])
