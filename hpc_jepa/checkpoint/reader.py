"""The whole tensors of a checkpoint, put together from the pieces that its processes wrote."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpc_jepa.checkpoint.format_2 import upgrade_name
from hpc_jepa.checkpoint.layout import RESUME_HINT, Checkpoint, open_checkpoint, verify_files
from hpc_jepa.checkpoint.rank_file import parse_key
from hpc_jepa.errors import CheckpointError


@dataclass(frozen=True)
class _StoredShard:
    """A piece in a file: elements ``start`` to ``stop`` of its tensor."""

    start: int
    stop: int
    key: str
    file: Any


class TensorReader(Mapping[str, Tensor]):
    """Names to whole tensors on the CPU; each is read when it is asked for, whoever wrote its pieces.

    Checksums are not looked at: see ``store.damage``. Raises CheckpointError where a file cannot be read or a piece is
    missing.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._folder = checkpoint.path
        self._shapes = checkpoint.manifest.shapes
        self._upgrade = checkpoint.manifest.format == 2
        self._pieces: dict[str, list[_StoredShard]] = {name: [] for name in self._shapes}
        for name in sorted(checkpoint.manifest.files):
            self._index(checkpoint.path / name)
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece.start)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor with its shape."""
        shape = self._shapes[name]
        return self.read_slice(name, 0, prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        """Names, in the order they were saved in."""
        return iter(self._shapes)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._shapes[name]

    def read_slice(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor [stop - start]; only these are read."""
        pieces = self._pieces[name]
        found: list[Tensor] = []
        reached = start
        with _readable(self._folder):
            for piece in pieces[max(bisect_right(pieces, start, key=lambda piece: piece.start) - 1, 0) :]:
                if piece.start > reached or reached >= stop:
                    break
                end = min(piece.stop, stop)
                found.append(piece.file.get_slice(piece.key)[reached - piece.start : end - piece.start])
                reached = end
        if reached < stop:
            raise CheckpointError(f"{self._folder}: {name} is incomplete from element {reached}; {RESUME_HINT}")
        return found[0] if len(found) == 1 else torch.cat(found) if found else torch.empty(0)

    def _index(self, path: Path) -> None:
        with _readable(path):
            file: Any = safe_open(path, framework="pt")
            for key in file.keys():  # noqa: SIM118 - the file is no mapping
                name, start = parse_key(key)
                name = upgrade_name(name) if self._upgrade else name
                (count,) = file.get_slice(key).get_shape()
                self._pieces[name].append(_StoredShard(start, start + count, key, file))


def open_tensors(folder: Path) -> TensorReader:
    """The tensors of the checkpoint in ``folder``. Raises CheckpointError where it is none, or cannot be read."""
    return TensorReader(open_checkpoint(folder))


def read_part(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    """Weights of one part (``student``, ``target``, ``predictor``, ``objectives``), names without the part.

    Raises CheckpointError when a file of weights is damaged, or holds no such part.
    """
    faults = verify_files(checkpoint, "weights")
    if faults:
        raise CheckpointError(f"{faults[0]}; {RESUME_HINT}")
    stored, prefix = TensorReader(checkpoint), f"{name}."
    found = {key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)}
    if not found:
        raise CheckpointError(f"{checkpoint.path}: holds no weights called '{name}'")
    return found


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name the file that the library could not read."""
    try:
        yield
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {RESUME_HINT}") from error
