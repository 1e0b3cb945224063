"""``load_encoder``: frozen encoders of runs, checkpoints, exports, and released V-JEPA 2 and 2.1 weights."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import Parameter

from hpc_jepa.checkpoint.export import CARD_KEY, ModelCard
from hpc_jepa.checkpoint.format_2 import upgrade_name
from hpc_jepa.checkpoint.layout import Checkpoint, is_checkpoint_dir, read_checkpoint
from hpc_jepa.checkpoint.reader import EncoderName, encoder_from_state, encoder_settings, read_encoder
from hpc_jepa.config.data import IMAGENET_MEAN, IMAGENET_STD
from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.io.escape import first_line
from hpc_jepa.io.regular import read_regular
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.feature_extractor import FeatureExtractor
from hpc_jepa.models.released import DEPTHS, EncoderWeights, from_original, from_transformers

LOG = logging.getLogger(__name__)

ENCODER_KEYS: dict[EncoderName, tuple[str, ...]] = {
    "target": ("ema_encoder", "target_encoder"),
    "student": ("encoder",),
}
"""Keys of the encoders in released ``.pt`` files, the newer one first."""

BLOCK = r"(?:^|\.)blocks\.([0-9]{1,9})\."

MAX_FILE_DIGITS = 5
"""Digits of the number of files of one encoder."""

FETCH_AGAIN = "download or export it again"


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder from a file with the normalisation of its pixels, ImageNet's unless hpc_jepa exported the file."""

    path: Path
    weights: EncoderWeights
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def encoder(self) -> Encoder:
        """Frozen, in evaluation mode."""
        return encoder_from_state(self.weights.config, self.weights.state)


def load_encoder(
    path: str | Path, weights: EncoderName = "target", heads: int | None = None, depth: int | None = None
) -> FeatureExtractor:
    """A frozen encoder in evaluation mode, fp32 on the CPU: clips [B, 3, F, H, W] -> features [B, N, D].

    path: a run folder (its latest checkpoint), a checkpoint folder, an export of ``hpc-jepa checkpoint export``, or
    released V-JEPA 2 and 2.1 weights: the original ``.pt``, or the folder of a VJEPA2Model.
    weights: of a run, checkpoint or ``.pt``: the EMA ``target`` or the ``student``. In a run without EMA the target is
    untrained, so ``target`` loads the student too, except under published semantics.
    heads: attention heads of weights whose width was never released.
    depth: number of blocks of weights whose width was never released. Without it, a warning is logged for files that
    do not contain it, because a file without its last blocks is then a valid encoder.

    Clips are uint8, or floats from 0 to 1; the encoder normalises them. Tokens are ordered by time, row, column; D is
    ``encoder.width``. These are the features that frozen evaluation uses.

        >>> import torch, hpc_jepa
        >>> encoder = hpc_jepa.load_encoder("runs/quickstart/quickstart/baseline/seed-0")
        >>> video = torch.randint(256, (1, 3, 8, 64, 64), dtype=torch.uint8)
        >>> encoder(video).shape  # 8 frames in tubelets of 2, 64x64 pixels in patches of 8
        torch.Size([1, 256, 128])
        >>> encoder.width, encoder.patch, encoder.tubelet
        (128, 8, 2)

    Raises InputError if the path is none of these, CheckpointError if the files are damaged, incomplete or not finite.
    """
    path = Path(path)
    if is_weights_path(path):
        file = read_pretrained(path, weights, heads, depth)
        return FeatureExtractor(file.encoder(), file.mean, file.std)
    return read_checkpoint(path, partial(_extractor, weights=weights))


def _extractor(checkpoint: Checkpoint, weights: EncoderName) -> FeatureExtractor:
    settings = encoder_settings(checkpoint)
    return FeatureExtractor(read_encoder(checkpoint, weights), settings.mean, settings.std)


def is_weights_path(path: Path) -> bool:
    """Whether ``path`` is a file with weights, or a folder of such files that is not a checkpoint."""
    return path.is_file() or (any(path.glob("*.safetensors")) and not is_checkpoint_dir(path))


def read_pretrained(
    path: Path, name: EncoderName = "target", heads: int | None = None, depth: int | None = None
) -> PretrainedEncoder:
    """The encoder in a ``.pt`` or ``.safetensors`` file, or in a folder of the latter.

    Raises InputError if there is none or ``heads`` is required, CheckpointError if the file is damaged, if tensors are
    missing, unknown or of other shapes, if the number of blocks is not the expected one, or if weights are not finite.
    """
    if not is_weights_path(path):
        raise InputError(f"{path}: neither a file with weights nor a folder with *.safetensors")
    state: dict[str, Tensor] = {}
    card = None
    if path.is_file() and path.suffix != ".safetensors":
        content = read_pickle(path)
        state = _select_encoder(content, name, path)
        depth = depth or _depth_of_other_encoders(content)
    else:
        _require_all_files(path)
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            tensors, card = _read_safetensors(file)
            state |= tensors
    try:
        weights = _convert(state, card, path, heads)
    except KeyError as error:
        raise CheckpointError(f"{path}: not a V-JEPA encoder: no {error.args[0]}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; {FETCH_AGAIN}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:  # shapes that do not fit
        raise CheckpointError(f"{path}: not a V-JEPA encoder ({first_line(error)}); {FETCH_AGAIN}") from error
    _require_depth(path, weights.config, depth or _stored_depth(path, card))
    _require_complete(path, weights)
    return PretrainedEncoder(path, weights, card.mean, card.std) if card else PretrainedEncoder(path, weights)


def _convert(state: dict[str, Tensor], card: ModelCard | None, path: Path, heads: int | None) -> EncoderWeights:
    if card is not None and card.format == "safetensors":
        return EncoderWeights(card.encoder, {upgrade_name(name): tensor for name, tensor in state.items()})
    if any(name.removeprefix("vjepa2.").startswith("encoder.layer.") for name in state):
        return from_transformers(state, _read_config(path if path.is_dir() else path.parent))
    if card is not None:
        return from_original(state, card.encoder.heads, card.encoder.rotary)
    return from_original(state, heads)


def _stored_depth(path: Path, card: ModelCard | None) -> int | None:
    """Number of blocks in the model card, or in a ``config.json`` beside the file."""
    if card is not None:
        return card.encoder.depth
    folder = path if path.is_dir() else path.parent
    if path.suffix == ".pt" or not (folder / "config.json").is_file():
        return None
    depth = _read_config(folder).get("num_hidden_layers")
    return depth if isinstance(depth, int) else None


def _depth_of_other_encoders(content: Mapping[str, Any]) -> int | None:
    """The largest number of blocks of any encoder in a ``.pt`` file with several; they have equal architectures."""
    depths = []
    for key in sum(ENCODER_KEYS.values(), ()):
        names = map(str, content[key] if isinstance(content.get(key), Mapping) else ())
        depths.append(max((1 + int(match[1]) for name in names if (match := re.search(BLOCK, name))), default=0))
    return max(depths) if sum(depth > 0 for depth in depths) > 1 else None


def _require_depth(path: Path, config: EncoderConfig, depth: int | None) -> None:
    """Raise CheckpointError unless the file has ``depth`` blocks, by default those of the released width.

    Logs a warning if the right number is unknown.
    """
    expected = depth or DEPTHS.get(config.width)
    if expected is None:
        LOG.warning(
            "%s: %d blocks found; no encoder of width %d was released, so nothing shows whether the last blocks are "
            "missing; give the depth to check it",
            *(path, config.depth, config.width),
        )
    elif config.depth != expected:
        missing = f"; missing: blocks {config.depth} to {expected - 1}" if config.depth < expected else ""
        raise CheckpointError(
            f"{path}: has {config.depth} blocks, expected {expected}{missing}; {FETCH_AGAIN}, or give the depth if "
            f"{config.depth} blocks are right"
        )


def _require_complete(path: Path, weights: EncoderWeights) -> None:
    """Raise CheckpointError if tensors are missing, unknown, of other shapes or not finite; names the first ones."""
    state, config = weights.state, weights.config
    if max(config.depth, config.width) > sum(x.numel() for x in state.values()) or config.depth > len(state):
        raise CheckpointError(
            f"{path}: {len(state)} tensors are not an encoder of {config.depth} blocks and width {config.width}; "
            f"{FETCH_AGAIN}"
        )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Encoder(config).state_dict().items()}
    faults = {
        "missing": [name for name in shapes if name not in state],
        "unknown": [name for name in state if name not in shapes],
        "of another shape": [name for name in state if name in shapes and state[name].shape != shapes[name]],
        "with values that are not finite": [name for name, x in state.items() if not torch.isfinite(x).all()],
    }
    found = [f"{len(names)} tensors {what} ({_examples(names)})" for what, names in faults.items() if names]
    if found:
        raise CheckpointError(f"{path}: {', '.join(found)}, of {len(shapes)}; {FETCH_AGAIN}")


def _examples(names: Sequence[str]) -> str:
    return ", ".join(f"{name:.200}" for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _require_all_files(path: Path) -> None:
    """Raise CheckpointError if a file of several is missing, by their numbers or the list of Hugging Face."""
    if path.is_file():
        return
    names = {file.name for file in path.glob("*.safetensors")}
    expected: set[str] = set()
    for listing in path.glob("*.safetensors.index.json"):
        try:
            expected |= set(_read_json(listing)["weight_map"].values())
        except (KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{listing}: no list of files in it; {FETCH_AGAIN}") from error
    if unnamed := [name for name in expected if not isinstance(name, str)]:
        raise CheckpointError(f"{path}: {unnamed[0]!r:.40} in the list of its files is no file name; {FETCH_AGAIN}")
    for name in names:
        if match := re.fullmatch(r"(.*-)(\d+)-of-(\d+)\.safetensors", name):
            prefix, number, count = match.groups()
            if len(count) > MAX_FILE_DIGITS:
                raise CheckpointError(f"{path / name}: one of {count:.40} files; {FETCH_AGAIN}")
            expected |= {f"{prefix}{i:0{len(number)}d}-of-{count}.safetensors" for i in range(1, int(count) + 1)}
    if missing := sorted(expected - names):
        raise CheckpointError(
            f"{path}: {len(missing)} of {len(expected)} files missing ({_examples(missing)}); {FETCH_AGAIN}"
        )


def _read_config(folder: Path) -> Mapping[str, Any]:
    return _read_json(folder / "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError."""
    try:
        content: Any = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({first_line(error)}); {FETCH_AGAIN}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object; {FETCH_AGAIN}")
    return content


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], ModelCard | None]:
    """Tensors, and the model card if hpc_jepa exported the file."""
    if not file.is_file():
        raise CheckpointError(f"{file}: not a regular file; {FETCH_AGAIN}")
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
            metadata = stored.metadata() or {}
        return tensors, ModelCard.model_validate_json(metadata[CARD_KEY]) if CARD_KEY in metadata else None
    except (SafetensorError, OSError, ValidationError) as error:
        raise CheckpointError(f"{file}: cannot be read ({first_line(error)}); {FETCH_AGAIN}") from error


def read_pickle(path: Path, file: BinaryIO | None = None) -> dict[str, Any]:
    """Content of a ``torch.save`` file, loaded without executing code, from ``file`` if it is open already.

    Raises CheckpointError.
    """
    try:
        content: Any = torch.load(file or path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign pickle makes the restricted unpickler raise
        raise CheckpointError(f"{path}: cannot be read as weights ({first_line(error)}); {FETCH_AGAIN}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path}: not a dictionary of encoders; name a V-JEPA 2 checkpoint")
    return content


def _select_encoder(content: dict[str, Any], weights: EncoderName, path: Path) -> dict[str, Tensor]:
    """The state dict of one encoder; the file may also be a single state dict."""
    if all(isinstance(value, Tensor) for value in content.values()):
        return require_plain(content, path)
    for key in ENCODER_KEYS[weights]:
        if key in content:
            state = content[key]
            if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
                raise CheckpointError(f"{path}: {key} is not a state dict of tensors; name a V-JEPA 2 checkpoint")
            return require_plain(state, path)
    raise CheckpointError(
        f"{path}: no {' or '.join(ENCODER_KEYS[weights])}, only {_examples(list(content)) or 'nothing'}"
    )


def require_plain(state: Mapping[Any, Tensor], path: Path) -> dict[str, Tensor]:
    """The state dict, of named dense tensors of real numbers. Raises CheckpointError.

    A pickle can also hold sparse, quantized and empty ones, and views that repeat one element 10^12 times.
    """
    for name, x in state.items():
        dense = type(x) in (Tensor, Parameter) and x.layout == torch.strided and x.device.type == "cpu"
        if not isinstance(name, str) or not dense or not x.is_floating_point():
            raise CheckpointError(f"{path}: {name!r:.80} is not a dense tensor of real numbers; {FETCH_AGAIN}")
        if x.numel() * x.element_size() > x.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {name!r:.80} has more elements than are stored; {FETCH_AGAIN}")
    return dict(state)
