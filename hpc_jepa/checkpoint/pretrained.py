"""Encoders in files of their own, without a run: what we exported, and released V-JEPA 2 and 2.1 weights."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpc_jepa.checkpoint.card import ModelCard
from hpc_jepa.checkpoint.encoders import EncoderName, encoder_from_state
from hpc_jepa.checkpoint.export import CARD_KEY
from hpc_jepa.checkpoint.format_2 import upgrade_name
from hpc_jepa.checkpoint.places import is_checkpoint_dir
from hpc_jepa.config.data import IMAGENET_MEAN, IMAGENET_STD
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.released import EncoderWeights, from_original, from_transformers

ENCODER_KEYS: dict[EncoderName, tuple[str, ...]] = {
    "target": ("ema_encoder", "target_encoder"),
    "student": ("encoder",),
}
"""What released ``.pt`` files call their encoders, the newer name first."""

FETCH_AGAIN = "fetch or export it again"


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder from a file, and how its pixels are normalised; the card where we exported it."""

    path: Path
    weights: EncoderWeights
    card: ModelCard | None

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of the three channels; released encoders saw ImageNet's."""
        return self.card.mean if self.card else IMAGENET_MEAN

    @property
    def std(self) -> tuple[float, float, float]:
        """Of the three channels."""
        return self.card.std if self.card else IMAGENET_STD

    def encoder(self) -> Encoder:
        """Frozen, in evaluation mode. Raises CheckpointError where tensors are missing, too many or of other shapes."""
        try:
            return encoder_from_state(self.weights.config, self.weights.state)
        except RuntimeError as error:
            fault = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{self.path}: no whole V-JEPA encoder ({fault}); {FETCH_AGAIN}") from error


def is_weights_path(path: Path) -> bool:
    """Whether ``path`` is a file of weights, or a folder of them that is no checkpoint."""
    return path.is_file() or (any(path.glob("*.safetensors")) and not is_checkpoint_dir(path))


def read_pretrained(path: Path, weights: EncoderName = "target", heads: int | None = None) -> PretrainedEncoder:
    """The encoder in a ``.pt`` or ``.safetensors`` file, or in a folder of the latter.

    Raises InputError where there is none or ``heads`` must be given, CheckpointError where it is damaged.
    """
    if not is_weights_path(path):
        raise InputError(f"{path}: neither a file of weights nor a folder with *.safetensors")
    state: dict[str, Tensor] = {}
    card = None
    if path.is_file() and path.suffix != ".safetensors":
        state = _part(_unpickled(path), weights, path)
    else:
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            tensors, card = _safetensors(file)
            state |= tensors
    try:
        return PretrainedEncoder(path, _understood(state, card, path, heads), card)
    except KeyError as error:
        raise CheckpointError(f"{path}: no V-JEPA encoder: it has no {error.args[0]}") from error


def _understood(state: dict[str, Tensor], card: ModelCard | None, path: Path, heads: int | None) -> EncoderWeights:
    if card is not None and card.format == "safetensors":
        return EncoderWeights(card.encoder, {upgrade_name(name): tensor for name, tensor in state.items()})
    if any(name.removeprefix("vjepa2.").startswith("encoder.layer.") for name in state):
        return from_transformers(state, _config(path if path.is_dir() else path.parent))
    if card is not None:
        return from_original(state, card.encoder.heads, card.encoder.rotary)
    return from_original(state, heads)


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: cannot be read ({error}); {FETCH_AGAIN}") from error
    return content


def _safetensors(file: Path) -> tuple[dict[str, Tensor], ModelCard | None]:
    """Tensors and, of what we exported, the card."""
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - the file is no mapping
            metadata = stored.metadata() or {}
        return tensors, ModelCard.model_validate_json(metadata[CARD_KEY]) if CARD_KEY in metadata else None
    except (SafetensorError, OSError, ValidationError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); {FETCH_AGAIN}") from error


def _unpickled(path: Path) -> dict[str, Any]:
    """A file of ``torch.save``, without running any code in it."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as weights ({str(error).splitlines()[0]}); {FETCH_AGAIN}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no encoders by name; name a checkpoint of V-JEPA 2")
    return content


def _part(content: dict[str, Any], weights: EncoderName, path: Path) -> dict[str, Tensor]:
    """The encoder among what a file holds; a file may also be one encoder and nothing else."""
    if all(isinstance(value, Tensor) for value in content.values()):
        return content
    for name in ENCODER_KEYS[weights]:
        if name in content:
            part: dict[str, Tensor] = content[name]
            return part
    raise CheckpointError(f"{path}: holds no {' or '.join(ENCODER_KEYS[weights])}, only {', '.join(content)}")
