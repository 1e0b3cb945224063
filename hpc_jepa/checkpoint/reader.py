"""Full tensors and encoders of a checkpoint, assembled from the shards of all ranks."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpc_jepa.checkpoint.format_2 import upgrade_name
from hpc_jepa.checkpoint.layout import (
    RESUME_HINT,
    Checkpoint,
    config_error,
    open_checkpoint,
    removed_meanwhile,
    verify_files,
)
from hpc_jepa.checkpoint.rank_file import parse_key
from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.errors import CheckpointError
from hpc_jepa.io.regular import open_regular
from hpc_jepa.models.encoder import Encoder

EncoderName = Literal["target", "student"]
"""The EMA target encoder, or the student encoder that it averages."""


@dataclass(frozen=True)
class _StoredShard:
    """Elements ``start`` to ``stop`` of a tensor, under ``key`` in an open file."""

    start: int
    stop: int
    key: str
    file: Any


class TensorReader(Mapping[str, Tensor]):
    """Maps names to full tensors on the CPU, each read on access, whatever world size and ZeRO stage wrote them.

    Does not verify checksums (see ``layout.verify_files``). Raises CheckpointError if a file cannot be read or a shard
    is missing, RemovedCheckpointError if the training run has removed the checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._folder = checkpoint.path
        self._shapes = checkpoint.manifest.shapes
        self._upgrade = checkpoint.manifest.format == 2
        self._shards: dict[str, list[_StoredShard]] = {name: [] for name in self._shapes}
        for name in sorted(checkpoint.manifest.files):
            self._index(checkpoint.path / name)
        for shards in self._shards.values():
            shards.sort(key=lambda shard: shard.start)

    def __getitem__(self, name: str) -> Tensor:
        """The full tensor."""
        shape = self._shapes[name]
        return self.read_slice(name, 0, prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        """Names in the order in which they were saved."""
        return iter(self._shapes)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._shapes[name]

    def read_slice(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor [stop - start]; reads only these."""
        shards = self._shards[name]
        parts: list[Tensor] = []
        end = start
        with _named_errors(self._folder, self._folder):
            for shard in shards[max(bisect_right(shards, start, key=lambda shard: shard.start) - 1, 0) :]:
                if shard.start > end or end >= stop:
                    break
                begin, end = end, min(shard.stop, stop)
                parts.append(shard.file.get_slice(shard.key)[begin - shard.start : end - shard.start])
        if end < stop:
            raise CheckpointError(f"{self._folder}: {name} is incomplete from element {end}; {RESUME_HINT}")
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0)

    def _index(self, path: Path) -> None:
        with _named_errors(self._folder, path):
            with open_regular(path):  # safe_open would wait at a pipe
                file: Any = safe_open(path, framework="pt")
            for key in file.keys():  # noqa: SIM118 - the file is not a mapping
                name, start = parse_key(key)
                name = upgrade_name(name) if self._upgrade else name
                (count,) = file.get_slice(key).get_shape()
                self._shards[name].append(_StoredShard(start, start + count, key, file))


@dataclass(frozen=True)
class EncoderSettings:
    """The settings of a run that are needed to use its encoders.

    ``mean`` and ``std`` normalise the three channels. ``target_trained`` is False in runs without EMA, where the stored
    target was never updated (B1).
    """

    encoder: EncoderConfig
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    target_trained: bool

    def evaluated(self, name: EncoderName) -> EncoderName:
        """The encoder to read for ``name``: the student in place of an untrained target."""
        return "student" if name == "target" and not self.target_trained else name


def encoder_settings(checkpoint: Checkpoint) -> EncoderSettings:
    """Read the encoder settings of a run; no other part of its configuration needs to be valid.

    Under published semantics an untrained target is evaluated like a trained one. Raises CheckpointError.
    """
    config = checkpoint.manifest.config
    try:
        ema, semantics, augmentation = config["ema"], config["semantics"], config["data"]["augmentation"]
        has_ema = ema == "always" or (ema == "unless_published" and semantics["preset"] != "published")
        return EncoderSettings(
            EncoderConfig.model_validate(config["model"]["encoder"]),
            mean=tuple(augmentation["mean"]),
            std=tuple(augmentation["std"]),
            target_trained=has_ema or semantics["evaluated_weights"] != "trained",
        )
    except ValidationError as error:
        raise config_error(checkpoint, error) from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path}: this version cannot read its configuration ({error})") from error


def open_tensors(folder: Path) -> TensorReader:
    """The tensors of the checkpoint in ``folder``. Raises CheckpointError if it is not one or cannot be read."""
    return TensorReader(open_checkpoint(folder))


def read_part(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    """State dict of ``student``, ``target``, ``predictor`` or ``objectives``.

    Raises CheckpointError if a file with weights is damaged, or the checkpoint has no such part.
    """
    errors = verify_files(checkpoint, "weights")
    if errors and not checkpoint.path.exists():
        raise removed_meanwhile(checkpoint.path)
    if errors:
        raise CheckpointError(f"{errors[0]}; {RESUME_HINT}")
    tensors, prefix = TensorReader(checkpoint), f"{name}."
    state = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
    if not state:
        known = [
            part
            for part in ("student", "target", "predictor", "objectives")
            if any(k.startswith(f"{part}.") for k in tensors)
        ]
        raise CheckpointError(f"{checkpoint.path}: no weights named '{name}'; it holds {', '.join(known)}")
    return state


def read_encoder(checkpoint: Checkpoint, name: EncoderName) -> Encoder:
    """The encoder to evaluate as ``name``: frozen, in evaluation mode, fp32, on the CPU.

    Raises CheckpointError if its files are damaged or do not fit the configuration of the run.
    """
    settings = encoder_settings(checkpoint)
    try:
        return encoder_from_state(settings.encoder, read_part(checkpoint, settings.evaluated(name)))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{checkpoint.path}: {name} does not fit the configured encoder: {reason}") from error


def encoder_from_state(config: EncoderConfig, state: dict[str, Tensor]) -> Encoder:
    """A frozen encoder with these weights. Raises RuntimeError if they do not fit."""
    with torch.device("meta"):
        encoder = Encoder(config)
    encoder.load_state_dict(state, assign=True)
    return encoder.eval().requires_grad_(False)


@contextmanager
def _named_errors(folder: Path, path: Path) -> Iterator[None]:
    """Add the file name to errors of the safetensors library; tell a folder that has been removed from damage."""
    try:
        yield
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:  # torch: a file that was removed
        if not folder.exists():
            raise removed_meanwhile(folder) from error
        raise CheckpointError(f"{path}: cannot be read ({error}); {RESUME_HINT}") from error
