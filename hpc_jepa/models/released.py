"""Tensor names and layouts of released V-JEPA encoders, and conversion to and from ours.

``original``: what facebookresearch/vjepa2 saves, with the names of timm's vision transformer; V-JEPA 2.1 adds one norm
per level, modality embeddings and a patch projection for images. ``transformers``: Hugging Face's VJEPA2Model, with
separate query, key and value. A V-JEPA 2 encoder is loaded with ``rotary: vjepa2``, one level, zero modality
embeddings, and an image projection that treats a frame like a tubelet of equal frames.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpc_jepa.config.model import EncoderConfig, Rotary
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.models.block import NORM_EPS
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.rotary import rotations
from hpc_jepa.types import TokenGrid

ORIGINAL = (
    ("patch_embedding.video.", "patch_embed.proj."),
    ("patch_embedding.image.", "patch_embed_img.proj."),
    ("modality.video", "video_mod_embed"),
    ("modality.image", "img_mod_embed"),
    ("norms.", "norms_block."),
)
"""Parts of our names and their counterparts in the original layout; the names inside blocks are the same."""

PREDICTOR = (
    ("embed.fc1.", "predictor_embed.0."),
    ("embed.fc2.", "predictor_embed.2."),
    ("embed.", "predictor_embed."),
    ("modality.video", "video_mod_embed"),
    ("modality.image", "img_mod_embed"),
    ("blocks.", "predictor_blocks."),
    ("norm.", "predictor_norm."),
    ("target_head.", "predictor_proj."),
    ("context_head.", "predictor_proj_context."),
)
"""First parts of our names in a predictor and their counterparts in the original layout of V-JEPA 2.1."""

TRANSFORMERS = (
    ("patch_embed.proj.", "encoder.embeddings.patch_embeddings.proj."),
    ("blocks.", "encoder.layer."),
    (".attn.", ".attention."),
)
"""Parts of original names and their counterparts in transformers; also ``norm.`` -> ``encoder.layernorm.``."""

WRAPPERS = re.compile(r"^(module\.|backbone\.)+")
"""Prefixes that distributed training and wrapper modules add to original names."""

WRAPPER = "module.backbone."
"""Prefix of all names in the files that V-JEPA 2.1's training writes."""

WRITTEN = {"student": "encoder", "target": "target_encoder", "predictor": "predictor"}
"""Networks of a run and their keys in those files."""

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}
"""Attention heads of the released widths; tensor shapes do not show them."""

DEPTHS = {192: 12, 384: 12, 768: 12, 1024: 24, 1280: 32, 1408: 40, 1664: 48}
"""Blocks of the released widths, to notice files that end early."""

LEVELS = 4
"""Levels of every released V-JEPA 2.1 encoder."""

UNEVEN_LEVELS = {48: (12, 24, 38, 48)}
"""Levels by depth where V-JEPA 2.1 does not space them evenly."""


@dataclass(frozen=True)
class EncoderWeights:
    """An encoder with our tensor names: ``Encoder(config).load_state_dict(state)``."""

    config: EncoderConfig
    state: dict[str, Tensor]


def from_original(
    state: Mapping[str, Tensor], heads: int | None = None, rotary: Rotary | None = None
) -> EncoderWeights:
    """Convert an encoder in the original layout; name prefixes of wrappers and unused position tables are dropped.

    heads: default by width for released sizes. rotary: default that of V-JEPA 2.1 if the encoder has one norm per
    level, else that of V-JEPA 2. Raises KeyError with the name of a missing tensor, InputError if heads is required,
    CheckpointError if the tensors are not those of a video encoder.
    """
    names = {WRAPPERS.sub("", name): tensor.float() for name, tensor in state.items()}
    shape = names["patch_embed.proj.weight"].shape
    if len(shape) != 5:
        raise CheckpointError(f"not a video encoder: patch_embed.proj.weight has shape {tuple(shape)}")
    if not any(name.startswith("norms_block.") for name in names):
        return _from_vjepa2(names, heads, rotary or "vjepa2")
    ours = {_rename(name, ORIGINAL, back=True): tensor for name, tensor in names.items()}
    return EncoderWeights(_infer_config(ours, heads, rotary or "vjepa2.1"), ours)


def from_transformers(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> EncoderWeights:
    """Convert the encoder of a VJEPA2Model with its ``config.json``; predictor and pooling heads are dropped.

    Raises KeyError with the name of a missing tensor or setting.
    """
    names = {name.removeprefix("vjepa2."): tensor for name, tensor in state.items()}
    plain = {_original_name(name): tensor for name, tensor in names.items() if name.startswith("encoder.")}
    for query in [name for name in plain if ".attn.query." in name]:
        parts = [plain.pop(query.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        plain[query.replace(".query.", ".qkv.")] = torch.cat(parts)
    return from_original(plain, config["num_attention_heads"], "vjepa2")


def to_original(encoder: Encoder) -> dict[str, Tensor]:
    """The tensors that map videos to features, in the layout of V-JEPA 2 and timm.

    The modality embedding is added to every token, so it is folded into the bias of the patch projection. Only the norm
    of the last level is kept, the one used in evaluation.
    """
    ours = encoder.state_dict()
    ours["patch_embedding.video.bias"] = ours["patch_embedding.video.bias"] + ours["modality.video"].flatten()
    last = f"norms.{len(encoder.config.normed) - 1}."
    kept: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name.startswith(last):
            kept["norm." + name.removeprefix(last)] = tensor
        elif not name.startswith(("norms.", "modality.", "patch_embedding.image.")):
            kept[_rename(name, ORIGINAL)] = tensor
    return kept


def original_name(name: str) -> str:
    """Our name of a tensor of a run, ``student.blocks.0.norm1.weight``, as V-JEPA 2.1 names it in its network."""
    network, _, own = name.partition(".")
    if network != "predictor":
        return _rename(own, ORIGINAL)
    for here, there in PREDICTOR:
        if own.startswith(here):
            return there + own.removeprefix(here)
    return own


def to_released(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """All three networks of a run, by the names of a checkpoint, as V-JEPA 2.1's training saves them."""
    return {
        key: {
            f"{WRAPPER}{original_name(name)}": tensor.clone()
            for name, tensor in tensors.items()
            if name.startswith(f"{network}.")
        }
        for network, key in WRITTEN.items()
    }


def to_transformers(encoder: Encoder, frames: int, size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json`` and tensors of a VJEPA2Model equal to ``encoder`` for square clips of side ``size``.

    Its predictor has no layers: ours is a different network. Raises InputError if VJEPA2Model computes other positions.
    """
    config = encoder.config
    require_vjepa2_positions(config, TokenGrid(max(1, frames // config.tubelet), *2 * (size // config.patch,)))
    tensors: dict[str, Tensor] = {}
    for name, tensor in to_original(encoder).items():
        theirs = "encoder.layernorm." + name.removeprefix("norm.") if name.startswith("norm.") else name
        theirs = _rename(theirs, TRANSFORMERS)
        if ".qkv." not in theirs:
            tensors[theirs] = tensor
            continue
        for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            tensors[theirs.replace(".qkv.", f".{part}.")] = rows.contiguous()
    return _transformers_config(config, frames, size), tensors


def require_vjepa2_positions(config: EncoderConfig, grid: TokenGrid) -> None:
    """Raise InputError unless the rotary tables of ``grid`` equal those of VJEPA2Model.

    The learned query and key projections could absorb a permutation of channels, but not other frequencies or position
    steps, so the tables must be equal.
    """
    if config.rotary == "vjepa2":
        return
    head_width, cpu = config.width // config.heads, torch.device("cpu")
    ours = rotations(grid, head_width, cpu, config.rotary).repeat_interleave(2, dim=-1)
    if torch.allclose(ours, rotations(grid, head_width, cpu, "vjepa2"), rtol=0, atol=1e-6):
        return
    stretched = f"stretches its {grid.height}x{grid.width} tokens onto 16x16 positions"
    paired = "rotates both channels of a pair with one frequency, where VJEPA2Model uses two"
    reasons = [stretched] * (min(grid.height, grid.width) > 1 and grid.height != 16) + [paired] * (head_width >= 12)
    raise InputError(
        f"transformers cannot run this encoder: it {' and '.join(reasons)}, which no change of weights can compensate; "
        "export with --format safetensors, or train with model.encoder.rotary=vjepa2"
    )


def _from_vjepa2(names: dict[str, Tensor], heads: int | None, rotary: Rotary) -> EncoderWeights:
    """One norm, no modality embedding, no image projection: add neutral ones."""
    ours = {
        _rename(name.replace("norm.", "norms.0.") if name.startswith("norm.") else name, ORIGINAL, back=True): x
        for name, x in names.items()
        if name != "pos_embed"
    }
    weight, bias = ours["patch_embedding.video.weight"], ours["patch_embedding.video.bias"]
    ours["patch_embedding.image.weight"] = weight.sum(dim=2, keepdim=True)
    ours["patch_embedding.image.bias"] = bias.clone()
    ours["modality.video"] = bias.new_zeros(1, 1, len(bias))
    ours["modality.image"] = bias.new_zeros(1, 1, len(bias))
    return EncoderWeights(_infer_config(ours, heads, rotary), ours)


def _infer_config(ours: dict[str, Tensor], heads: int | None, rotary: Rotary) -> EncoderConfig:
    """Infer the architecture from names and shapes of the tensors."""
    width, _, tubelet, patch, _ = ours["patch_embedding.video.weight"].shape
    depth, norms = _count(ours, "blocks"), _count(ours, "norms")
    if heads is None and width not in HEADS:
        raise InputError(f"no released encoder has width {width}: give the number of attention heads")
    if width % (heads or HEADS[width]):
        raise InputError(f"the width {width} of the encoder is not a multiple of {heads} attention heads")
    if norms > 1 and (norms != LEVELS if width in HEADS else depth % norms):
        raise CheckpointError(f"incomplete encoder: {norms} norms_block of {LEVELS} for {depth} blocks")
    even = tuple(depth * (number + 1) // norms for number in range(norms))
    return EncoderConfig(
        width=width,
        depth=depth,
        heads=HEADS[width] if heads is None else heads,
        mlp_ratio=ours["blocks.0.mlp.fc1.weight"].shape[0] / width,
        patch=patch,
        tubelet=tubelet,
        levels=UNEVEN_LEVELS.get(depth, even) if norms > 1 else even,
        rotary=rotary,
    )


def _count(names: Mapping[str, Tensor], part: str) -> int:
    """One more than the largest number in names ``<part>.<number>.…``. Raises KeyError if there is none."""
    numbers = [int(match[1]) for name in names if (match := re.match(rf"{part}\.([0-9]{{1,9}})\.", name))]
    if not numbers:
        raise KeyError(f"{part}.0")
    if max(numbers) >= len(names):
        raise CheckpointError(f"incomplete encoder: {part}.{max(numbers)} in a file of {len(names)} tensors")
    return 1 + max(numbers)


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
        "mlp_ratio": _mlp_ratio(round(config.width * config.mlp_ratio), config.width),
        "layer_norm_eps": NORM_EPS,
        "pred_num_hidden_layers": 0,
        "pred_hidden_size": config.width,
        "pred_num_attention_heads": config.heads,
    }


def _mlp_ratio(hidden: int, width: int) -> float:
    """A ratio for which int(width * ratio) == hidden."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _original_name(name: str) -> str:
    """A tensor name of transformers' encoder in the original layout."""
    if name.startswith("encoder.layernorm."):
        return "norm." + name.removeprefix("encoder.layernorm.")
    return _rename(name, TRANSFORMERS, back=True)


def _rename(name: str, table: tuple[tuple[str, str], ...], back: bool = False) -> str:
    for here, there in table:
        name = name.replace(there, here) if back else name.replace(here, there)
    return name
