"""Files in the layout of V-JEPA 2.1, made from random networks with its names of tensors."""

import torch
from torch import nn


class TheirBlock(nn.Module):
    """Tensor names of a block of facebookresearch/vjepa2."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})


class TheirEncoder(nn.Module):
    def __init__(self, width, depth, patch):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, width, (2, patch, patch))})
        self.patch_embed_img = nn.ModuleDict({"proj": nn.Conv3d(3, width, (1, patch, patch))})
        self.blocks = nn.ModuleList(TheirBlock(width) for _ in range(depth))
        self.norms_block = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.img_mod_embed = nn.Parameter(torch.randn(1, 1, width))
        self.video_mod_embed = nn.Parameter(torch.randn(1, 1, width))


class TheirPredictor(nn.Module):
    def __init__(self, inputs, levels, width, depth, mask_tokens):
        super().__init__()
        self.predictor_embed = nn.Linear(inputs, width)
        if levels > 1:
            self.predictor_embed = nn.Sequential(
                nn.Linear(inputs * levels, inputs), nn.GELU(), nn.Linear(inputs, width)
            )
        self.mask_tokens = nn.ParameterList(torch.randn(1, 1, width) for _ in range(mask_tokens))
        self.video_mod_embed = nn.Parameter(torch.randn(1, 1, width))
        self.img_mod_embed = nn.Parameter(torch.randn(1, 1, width))
        self.predictor_blocks = nn.ModuleList(TheirBlock(width) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(width)
        self.predictor_proj = nn.Linear(width, levels * inputs)
        self.predictor_proj_context = nn.Linear(width, levels * inputs)


def wrapped(module):
    return {f"module.backbone.{name}": x.clone() for name, x in module.state_dict().items()}


def released_content(model):
    """Content of a file for a ``model`` of a configuration: all three networks, with prefixes of wrapper modules."""
    torch.manual_seed(5)
    encoder, predictor = model["encoder"], model["predictor"]
    sizes = encoder["width"], encoder["depth"], encoder["patch"]
    levels, tokens = len(encoder["levels"]), predictor.get("mask_tokens", 2)
    theirs = TheirPredictor(encoder["width"], levels, predictor["width"], predictor["depth"], tokens)
    return {
        "encoder": wrapped(TheirEncoder(*sizes)),
        "target_encoder": wrapped(TheirEncoder(*sizes)),
        "predictor": wrapped(theirs),
        "epoch": 12,
    }
