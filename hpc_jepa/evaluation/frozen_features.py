"""Frozen features of one split: rows on the disk, of which only what is being looked at is in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.config.benchmark import Pooling
from hpc_jepa.errors import InputError
from hpc_jepa.io.malloc import release_freed_memory

CHUNK_BYTES = 1 << 25
"""Bytes of features in fp32 that are looked at at once, where the order of clips does not matter."""

MAX_MATRIX_BYTES = 1 << 31
"""Bytes of pooled features that may be in memory as one matrix."""


class FeatureTable(Protocol):
    """Rows [n, N, D] of floats that need not be in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, N, D)."""

    def __getitem__(self, rows: Any) -> NDArray[np.floating]: ...


@dataclass(frozen=True)
class MappedFiles:
    """Rows in files of equal shape. A file is mapped while rows are copied out of it, and no longer.

    place: [n] where each row lies, counted through all files.
    """

    files: tuple[Path, ...]
    starts: NDArray[np.int64]
    positions: NDArray[np.int64]
    row: tuple[int, ...]
    dtype: np.dtype[np.floating]

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, N, D)."""
        return (len(self.positions), *self.row)

    def __getitem__(self, rows: Any) -> NDArray[np.floating]:
        """A copy of some rows [B, N, D]; ``rows`` is a slice or an array of row numbers."""
        places = self.positions[rows]
        found = np.empty((len(places), *self.row), self.dtype)
        files = np.searchsorted(self.starts, places, side="right") - 1
        for number in np.unique(files):
            mapped = np.memmap(self.files[number], self.dtype, "r").reshape(-1, *self.row)
            here = np.flatnonzero(files == number)
            found[here] = mapped[places[here] - self.starts[number]]
        return found


@dataclass(frozen=True)
class RowSubset:
    """Some rows of another table."""

    table: FeatureTable
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, N, D)."""
        return (len(self.rows), *self.table.shape[1:])

    def __getitem__(self, rows: Any) -> NDArray[np.floating]:
        """Rows of the pick."""
        return self.table[self.rows[rows]]


@dataclass(frozen=True)
class FrozenFeatures:
    """What one encoder made of one split, pooled in one way.

    tokens: [n, N, D] fp16 or fp32, tubelet by tubelet; N = 1 for the mean of all, N = T for that of each tubelet.
    labels: [n] int64 classes.
    samples: [n] int64 index of each clip within its data set.
    tubelets: T, so that N = T * H * W for unpooled tokens.
    clips: of each sample; row i + v * (n / clips) is clip v of the sample of row i.
    """

    tokens: FeatureTable
    labels: NDArray[np.int64]
    samples: NDArray[np.int64]
    tubelets: int
    clips: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """Channels D of a token."""
        return int(self.tokens.shape[-1])

    def batch(self, rows: NDArray[np.int64], device: torch.device) -> Tensor:
        """Tokens of the given clips [B, N, D], fp32."""
        return torch.from_numpy(self.tokens[rows]).to(device).float()

    def flat(self) -> NDArray[np.float32]:
        """All of it as one matrix [n, N * D]. Raises InputError where that is too much for the memory."""
        size = 4 * int(np.prod(self.tokens.shape))
        if size > MAX_MATRIX_BYTES:
            raise InputError(
                f"{len(self)} clips of pooled features are {size / 2**30:.1f} GiB as one matrix, more than "
                f"{MAX_MATRIX_BYTES / 2**30:.0f}; probes of kind linear read them batch by batch"
            )
        return self.tokens[:].astype(np.float32).reshape(len(self), -1)

    def chunks(self) -> Iterator[NDArray[np.int64]]:
        """Row numbers in order, as many at a time as make up a chunk of memory in fp32."""
        size = max(1, CHUNK_BYTES // (4 * int(np.prod(self.tokens.shape[1:]))))
        for start in range(0, len(self), size):
            yield np.arange(start, min(start + size, len(self)))
            release_freed_memory()

    def subset(self, samples: NDArray[np.int64]) -> Self:
        """The samples of the given rows (of the first clip), with all their clips."""
        per_clip = len(self) // self.clips
        rows = np.concatenate([samples + clip * per_clip for clip in range(self.clips)])
        return replace(self, tokens=RowSubset(self.tokens, rows), labels=self.labels[rows], samples=self.samples[rows])

    def first_clips(self) -> Self:
        """The first clip of every sample."""
        rows = np.arange(len(self) // self.clips)
        picked = RowSubset(self.tokens, rows)
        return replace(self, tokens=picked, labels=self.labels[rows], samples=self.samples[rows], clips=1)

    def per_sample(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] values of clips -> those of the first clip of each sample."""
        return values[: len(self) // self.clips]


@dataclass(frozen=True)
class Standardiser:
    """(x - mean) * scale per channel, mean and scale [D]."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: FrozenFeatures) -> Self:
        """Mean 0, variance 1 over all tokens of all clips; constant channels are only shifted."""
        total, squares = np.zeros(features.width), np.zeros(features.width)
        for rows in features.chunks():
            tokens = features.tokens[rows].astype(np.float64)
            total += tokens.sum(axis=(0, 1))
            squares += np.square(tokens).sum(axis=(0, 1))
        count = len(features) * features.tokens.shape[1]
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        scale = 1 / np.where(std > 0, std, 1)
        return cls(torch.from_numpy(mean).float(), torch.from_numpy(scale).float())

    @classmethod
    def identity(cls, width: int) -> Self:
        """Features as they are."""
        return cls(torch.zeros(width), torch.ones(width))

    def to(self, device: torch.device) -> "Standardiser":
        """The same on another device."""
        return Standardiser(self.mean.to(device), self.scale.to(device))

    def __call__(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., D], in place: a batch is large and belongs to its reader."""
        return tokens.sub_(self.mean).mul_(self.scale)


def pool(tokens: Tensor, pooling: Pooling, tubelets: int) -> Tensor:
    """[B, T * H * W, D] -> all tokens, the mean of each tubelet [B, T, D], or the mean of all [B, 1, D]."""
    if pooling == "tokens":
        return tokens
    groups = 1 if pooling == "mean" else tubelets
    return rearrange(tokens, "b (t p) d -> b t p d", t=groups).mean(dim=2, dtype=torch.float32)
