"""The names and layouts under which others keep the weights of a V-JEPA encoder.

Two layouts are known. ``original``: what facebookresearch/vjepa2 saves, names as in timm's vision transformer; V-JEPA
2.1 adds norms of several levels, modality vectors and patches of images. ``transformers``: Hugging Face's VJEPA2Model,
with query, key and value apart. A V-JEPA 2 encoder becomes ours with ``rotary: vjepa2``, one level, modality vectors of
zero, and image patches that see a frame as the video patches see a tubelet of equal frames.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpc_jepa.config.model import EncoderConfig, Rotary
from hpc_jepa.errors import InputError
from hpc_jepa.models.block import NORM_EPS
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.rotary import rotations
from hpc_jepa.types import TokenGrid

ORIGINAL = (
    ("patch_embedding.video.", "patch_embed.proj."),
    ("patch_embedding.image.", "patch_embed_img.proj."),
    ("modality.video", "video_mod_embed"),
    ("modality.image", "img_mod_embed"),
    (".attention_norm.", ".norm1."),
    (".attention.output.", ".attn.proj."),
    (".attention.qkv.", ".attn.qkv."),
    (".mlp_norm.", ".norm2."),
    (".mlp.hidden.", ".mlp.fc1."),
    (".mlp.output.", ".mlp.fc2."),
    ("level_norms.", "norms_block."),
)
"""Our part of a name, and what the original layout has in its place."""

TRANSFORMERS = (
    ("patch_embed.proj.", "encoder.embeddings.patch_embeddings.proj."),
    ("blocks.", "encoder.layer."),
    (".attn.", ".attention."),
)
"""The original part of a name, and what transformers has in its place; ``norm.`` becomes ``encoder.layernorm.``."""

WRAPPERS = re.compile(r"^(module\.|backbone\.)+")
"""What distributed training and its code put before the names of the original layout."""

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}
"""Width of a released encoder to its attention heads, which its tensors do not show."""

UNEVEN_LEVELS = {48: (12, 24, 38, 48)}
"""Depth to levels where V-JEPA 2.1 does not space them evenly."""


@dataclass(frozen=True)
class EncoderWeights:
    """An encoder under our names: ``Encoder(config).load_state_dict(state)``."""

    config: EncoderConfig
    state: dict[str, Tensor]


def from_original(
    state: Mapping[str, Tensor], heads: int | None = None, rotary: Rotary | None = None
) -> EncoderWeights:
    """An encoder in the original layout; whatever wrapped its names is left away, unused position tables too.

    heads: known for the released widths. rotary: that of V-JEPA 2.1 where there are norms of levels, of V-JEPA 2
    otherwise. Raises KeyError, naming the tensor that no such encoder is without, InputError where heads must be given.
    """
    names = {WRAPPERS.sub("", name): tensor.float() for name, tensor in state.items()}
    if not any(name.startswith("norms_block.") for name in names):
        return _of_version_2(names, heads, rotary or "vjepa2")
    ours = {_renamed(name, ORIGINAL, back=True): tensor for name, tensor in names.items()}
    return EncoderWeights(_config(ours, heads, rotary or "vjepa2.1"), ours)


def from_transformers(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> EncoderWeights:
    """An encoder of VJEPA2Model with its ``config.json``; the predictor and heads beside it are left away.

    Raises KeyError, naming the tensor or setting that no such encoder is without.
    """
    names = {name.removeprefix("vjepa2."): tensor for name, tensor in state.items()}
    plain = {_plain(name): tensor for name, tensor in names.items() if name.startswith("encoder.")}
    for query in [name for name in plain if ".attn.query." in name]:
        parts = [plain.pop(query.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        plain[query.replace(".query.", ".qkv.")] = torch.cat(parts)
    return from_original(plain, config["num_attention_heads"], "vjepa2")


def to_original(encoder: Encoder) -> dict[str, Tensor]:
    """What turns videos into features, in the layout of V-JEPA 2 and timm.

    The modality vector is added to every token, so it moves into the bias of the patches; of the norms only that of the
    last level is kept, which evaluation reads.
    """
    ours = encoder.state_dict()
    ours["patch_embedding.video.bias"] = ours["patch_embedding.video.bias"] + ours["modality.video"].flatten()
    last = f"level_norms.{len(encoder.config.levels) - 1}."
    kept: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name.startswith(last):
            kept["norm." + name.removeprefix(last)] = tensor
        elif not name.startswith(("level_norms.", "modality.", "patch_embedding.image.")):
            kept[_renamed(name, ORIGINAL)] = tensor
    return kept


def to_transformers(encoder: Encoder, frames: int, size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json`` and tensors of a VJEPA2Model that computes what ``encoder`` does, for square clips of ``size``.

    It has no layers in its predictor: ours is another network. Raises InputError where its positions are others.
    """
    config = encoder.config
    require_vjepa2_positions(config, TokenGrid(max(1, frames // config.tubelet), *2 * (size // config.patch,)))
    tensors: dict[str, Tensor] = {}
    for name, tensor in to_original(encoder).items():
        theirs = "encoder.layernorm." + name.removeprefix("norm.") if name.startswith("norm.") else name
        theirs = _renamed(theirs, TRANSFORMERS)
        if ".qkv." not in theirs:
            tensors[theirs] = tensor
            continue
        for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            tensors[theirs.replace(".qkv.", f".{part}.")] = rows.contiguous()
    return _transformers_config(config, frames, size), tensors


def require_vjepa2_positions(config: EncoderConfig, grid: TokenGrid) -> None:
    """Raise InputError where an encoder turns the tokens of ``grid`` otherwise than VJEPA2Model does.

    Positions act between two learned maps, which can undo a change of channels, but neither of frequency nor of step:
    so nothing but equal tables will do.
    """
    if config.rotary == "vjepa2":
        return
    head_width, cpu = config.width // config.heads, torch.device("cpu")
    ours = rotations(grid, head_width, cpu, config.rotary).repeat_interleave(2, dim=-1)
    if torch.allclose(ours, rotations(grid, head_width, cpu, "vjepa2"), rtol=0, atol=1e-6):
        return
    stretched = f"stretches its {grid.height}x{grid.width} tokens onto 16x16 positions"
    paired = "turns both channels of a pair by one frequency, where VJEPA2Model has two"
    faults = [stretched] * (min(grid.height, grid.width) > 1 and grid.height != 16) + [paired] * (head_width >= 12)
    raise InputError(
        f"transformers cannot run this encoder: it {' and '.join(faults)}, which no change of weights makes up for; "
        "export it with --format safetensors, or train with model.encoder.rotary=vjepa2"
    )


def _of_version_2(names: dict[str, Tensor], heads: int | None, rotary: Rotary) -> EncoderWeights:
    """One norm, no modality, no patches of images: fill in what leaves the encoder as it is."""
    ours = {
        _renamed(name.replace("norm.", "level_norms.0.") if name.startswith("norm.") else name, ORIGINAL, back=True): x
        for name, x in names.items()
        if name != "pos_embed"
    }
    weight, bias = ours["patch_embedding.video.weight"], ours["patch_embedding.video.bias"]
    ours["patch_embedding.image.weight"] = weight.sum(dim=2, keepdim=True)
    ours["patch_embedding.image.bias"] = bias.clone()
    ours["modality.video"] = bias.new_zeros(1, 1, len(bias))
    ours["modality.image"] = bias.new_zeros(1, 1, len(bias))
    return EncoderWeights(_config(ours, heads, rotary), ours)


def _config(ours: dict[str, Tensor], heads: int | None, rotary: Rotary) -> EncoderConfig:
    """The architecture, read off the shapes."""
    width, _, tubelet, patch, _ = ours["patch_embedding.video.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in ours if name.startswith("blocks."))
    norms = sum(name.startswith("level_norms.") for name in ours) // 2
    if heads is None and width not in HEADS:
        raise InputError(f"an encoder of width {width} is no released one: say how many attention heads it has")
    even = tuple(depth * (number + 1) // norms for number in range(norms))
    return EncoderConfig(
        width=width,
        depth=depth,
        heads=HEADS[width] if heads is None else heads,
        mlp_ratio=ours["blocks.0.mlp.hidden.weight"].shape[0] / width,
        patch=patch,
        tubelet=tubelet,
        levels=UNEVEN_LEVELS.get(depth, even) if norms > 1 else even,
        rotary=rotary,
    )


def _transformers_config(config: EncoderConfig, frames: int, size: int) -> dict[str, Any]:
    return {
        "architectures": ["VJEPA2Model"],
        "model_type": "vjepa2",
        "dtype": "float32",
        "patch_size": config.patch,
        "tubelet_size": config.tubelet,
        "crop_size": size,
        "frames_per_clip": frames,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "mlp_ratio": _truncated_to(round(config.width * config.mlp_ratio), config.width),
        "layer_norm_eps": NORM_EPS,
        "pred_num_hidden_layers": 0,
        "pred_hidden_size": config.width,
        "pred_num_attention_heads": config.heads,
    }


def _truncated_to(product: int, factor: int) -> float:
    """A ratio that gives ``product`` when ``factor * ratio`` is truncated."""
    ratio = product / factor
    return ratio if int(factor * ratio) == product else math.nextafter(ratio, math.inf)


def _plain(name: str) -> str:
    """The original name of a tensor of transformers' encoder."""
    if name.startswith("encoder.layernorm."):
        return "norm." + name.removeprefix("encoder.layernorm.")
    return _renamed(name, TRANSFORMERS, back=True)


def _renamed(name: str, table: tuple[tuple[str, str], ...], back: bool = False) -> str:
    for here, there in table:
        name = name.replace(there, here) if back else name.replace(here, there)
    return name
