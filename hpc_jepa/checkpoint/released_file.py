"""The networks of a file in the layout of V-JEPA 2.1: checked against a configuration, loaded, and written."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpc_jepa.checkpoint.pretrained import ENCODER_KEYS, read_pickle, require_plain
from hpc_jepa.config.init import Part
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.io.regular import open_regular
from hpc_jepa.models.released import WRAPPERS, original_name

NETWORKS: dict[Part, str] = {"encoder": "student", "target": "target", "predictor": "predictor"}
"""Parts of a released file and the names of these networks in a run."""

KEYS: dict[Part, tuple[str, ...]] = {
    "encoder": ENCODER_KEYS["student"],
    "target": ENCODER_KEYS["target"],
    "predictor": ("predictor",),
}
"""Keys of the parts in a released file, the newer one first."""


@dataclass(frozen=True)
class ReleasedFile:
    """Content of a ``.pt`` file, and the SHA-256 of the bytes that it was read from."""

    path: Path
    sha256: str
    content: Mapping[str, Any]


def open_released(path: Path, sha256: str | None = None) -> ReleasedFile:
    """Read a file, after its SHA-256 was compared with the expected one if there is one.

    Raises InputError if there is no such file, CheckpointError if its hash is another one or it cannot be read.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_regular(path))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); name a .pt file in V-JEPA 2.1's layout"
            ) from error
        if sha256 is not None and digest != sha256.lower():
            raise CheckpointError(f"{path}: SHA-256 is {digest}, not {sha256.lower()} as init.sha256 says; not loaded")
        file.seek(0)
        return ReleasedFile(path, digest, read_pickle(path, file))


def take_parts(file: ReleasedFile, parts: Sequence[Part], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of some parts by our names, ``student.*``, ``target.*`` and ``predictor.*``, in float32.

    shapes: of all weights of the run by our names. Raises CheckpointError naming every kind of difference: tensors, by
    their names in the file, that are missing, unexpected, of another shape, or not finite.
    """
    taken: dict[str, Tensor] = {}
    faults: dict[str, list[str]] = {"missing": [], "unexpected": [], "of another shape": [], "not finite": []}
    for part in parts:
        key = next((key for key in KEYS[part] if key in file.content), None)
        if key is None:
            faults["missing"].append(" or ".join(KEYS[part]))
            continue
        state = _unwrapped(file, key)
        own = {name: original_name(name) for name in shapes if name.startswith(f"{NETWORKS[part]}.")}
        faults["unexpected"] += [f"{key}.{name}" for name in state if name not in set(own.values())]
        for name, theirs in own.items():
            tensor, shown = state.get(theirs), f"{key}.{theirs}"
            if tensor is not None and (fault := _fault(tensor, shapes[name])):
                shape = f" {_shape(tensor.shape)} instead of {_shape(shapes[name])}" if fault != "not finite" else ""
                faults[fault].append(f"{shown}{shape}")
            elif tensor is not None:
                taken[name] = tensor.detach().float()
            else:
                faults["missing"].append(shown)
    require_none(faults, str(file.path))
    return taken


def _fault(tensor: Tensor, shape: tuple[int, ...]) -> str:
    """What is wrong with a tensor in float32, empty if nothing is."""
    if tuple(tensor.shape) != shape:
        return "of another shape"
    return "" if torch.isfinite(tensor.float()).all() else "not finite"


def require_none(faults: Mapping[str, Iterable[str]], place: str) -> None:
    """Raise CheckpointError naming the first tensors of each fault, if there are any."""
    named = {what: list(names) for what, names in faults.items()}
    found = [f"{len(names)} {what} ({_examples(names)})" for what, names in named.items() if names]
    if found:
        raise CheckpointError(f"{place}: does not fit the configured networks: tensors {', '.join(found)}")


def _unwrapped(file: ReleasedFile, key: str) -> dict[str, Tensor]:
    """The state dict under ``key`` without prefixes of wrapper modules."""
    stored = file.content[key]
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{file.path}: {key} is not a state dict of tensors; name a V-JEPA 2.1 checkpoint")
    state: dict[str, Tensor] = {}
    for name, tensor in require_plain(stored, file.path).items():
        plain = WRAPPERS.sub("", name)
        if plain in state:
            raise CheckpointError(f"{file.path}: {key} has {plain:.200} twice, with and without a prefix")
        state[plain] = tensor
    return state


def _examples(names: Sequence[str]) -> str:
    return ", ".join(f"{name:.200}" for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
