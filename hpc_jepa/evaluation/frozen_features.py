"""Frozen features of one split: rows on disk, read in chunks, so that memory does not grow with the data set."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.config.benchmark import Pooling
from hpc_jepa.errors import InputError
from hpc_jepa.io.malloc import release_freed_memory

Number = TypeVar("Number", np.int64, np.float64)

CHUNK_BYTES = 1 << 25
"""Size of a chunk of features in fp32, where the order of clips does not matter."""

MAX_MATRIX_BYTES = 1 << 31
"""Largest matrix of pooled features that is loaded into memory as a whole."""


class FeatureTable(Protocol):
    """Rows [n, N, D] of floats, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, N, D)."""

    def __getitem__(self, rows: Any) -> NDArray[np.floating]: ...


@dataclass(frozen=True)
class MappedFiles:
    """Rows in files of equal row shape. A file is memory-mapped only while rows are copied from it.

    positions: [n] position of each row, counted through all files.
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
        positions = self.positions[rows]
        copied = np.empty((len(positions), *self.row), self.dtype)
        files = np.searchsorted(self.starts, positions, side="right") - 1
        for number in np.unique(files):
            mapped = np.memmap(self.files[number], self.dtype, "r").reshape(-1, *self.row)
            in_file = np.flatnonzero(files == number)
            copied[in_file] = mapped[positions[in_file] - self.starts[number]]
        return copied


@dataclass(frozen=True)
class RowSubset:
    """Selected rows of another table."""

    table: FeatureTable
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, N, D)."""
        return (len(self.rows), *self.table.shape[1:])

    def __getitem__(self, rows: Any) -> NDArray[np.floating]:
        """Rows of the subset."""
        return self.table[self.rows[rows]]


@dataclass(frozen=True)
class FrozenFeatures:
    """Features of one split from one encoder, with one pooling.

    tokens: [n, N, D] fp16 or fp32, tubelet by tubelet; N = 1 for the mean of all, N = T for one mean per tubelet.
    labels: [n] int64 classes.
    samples: [n] int64 index of each clip's sample within its data set.
    tubelets: T, so that N = T * H * W for unpooled tokens.
    clips: number per sample; row i + v * (n / clips) is clip v of the sample of row i.
    clusters: [n] int64, equal for samples that were cut from one source video; None if unknown.
    targets: [n] float64 numbers to predict; None: the classes are predicted.
    """

    tokens: FeatureTable
    labels: NDArray[np.int64]
    samples: NDArray[np.int64]
    tubelets: int
    clips: int = 1
    clusters: NDArray[np.int64] | None = None
    targets: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """Channels D of a token."""
        return int(self.tokens.shape[-1])

    def batch(self, rows: NDArray[np.int64], device: torch.device) -> Tensor:
        """Tokens of the given rows [B, N, D], fp32."""
        return torch.from_numpy(self.tokens[rows]).to(device).float()

    def flat(self) -> NDArray[np.float32]:
        """All features as one matrix [n, N * D]. Raises InputError if it is larger than MAX_MATRIX_BYTES."""
        size = 4 * int(np.prod(self.tokens.shape))
        if size > MAX_MATRIX_BYTES:
            raise InputError(
                f"pooled features of {len(self)} clips need a matrix of {size / 2**30:.1f} GiB, the limit is "
                f"{MAX_MATRIX_BYTES / 2**30:.0f} GiB; use a probe of kind linear, which reads them in batches"
            )
        return self.tokens[:].astype(np.float32).reshape(len(self), -1)

    def chunks(self) -> Iterator[NDArray[np.int64]]:
        """Row numbers in order, in chunks of at most CHUNK_BYTES of features."""
        size = max(1, CHUNK_BYTES // (4 * int(np.prod(self.tokens.shape[1:]))))
        for start in range(0, len(self), size):
            yield np.arange(start, min(start + size, len(self)))
            release_freed_memory()

    def subset(self, samples: NDArray[np.int64]) -> Self:
        """The samples at the given rows of the first clip, with all their clips."""
        per_clip = len(self) // self.clips
        return self._select(np.concatenate([samples + clip * per_clip for clip in range(self.clips)]), self.clips)

    def first_clips(self) -> Self:
        """The first clip of every sample."""
        return self._select(np.arange(len(self) // self.clips), clips=1)

    @property
    def sample_clusters(self) -> NDArray[np.int64] | None:
        """``clusters`` of the first clip of each sample."""
        return None if self.clusters is None else self.per_sample(self.clusters)

    @property
    def sample_answers(self) -> NDArray[Any]:
        """What is to be predicted for each sample: its class, or its target."""
        return self.per_sample(self.labels if self.targets is None else self.targets)

    def per_sample(self, values: NDArray[Number]) -> NDArray[Number]:
        """[n] values of clips -> those of the first clip of each sample."""
        return values[: len(self) // self.clips]

    def _select(self, rows: NDArray[np.int64], clips: int) -> Self:
        tokens = RowSubset(self.tokens, rows)
        return replace(
            self,
            tokens=tokens,
            labels=self.labels[rows],
            samples=self.samples[rows],
            clips=clips,
            clusters=None if self.clusters is None else self.clusters[rows],
            targets=None if self.targets is None else self.targets[rows],
        )


@dataclass(frozen=True)
class Standardiser:
    """(x - mean) * scale per channel, with mean and scale [D]."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: FrozenFeatures) -> Self:
        """Mean 0 and variance 1 over all tokens of all clips; constant channels are only shifted."""
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
        """Leaves features unchanged."""
        return cls(torch.zeros(width), torch.ones(width))

    def to(self, device: torch.device) -> "Standardiser":
        """A copy on another device."""
        return Standardiser(self.mean.to(device), self.scale.to(device))

    def __call__(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., D], in place, because batches are large and not used again."""
        return tokens.sub_(self.mean).mul_(self.scale)


def pool(tokens: Tensor, pooling: Pooling, tubelets: int) -> Tensor:
    """[B, T * H * W, D] -> all tokens, the mean of each tubelet [B, T, D], or the mean of all [B, 1, D]."""
    if pooling == "tokens":
        return tokens
    groups = 1 if pooling == "mean" else tubelets
    return rearrange(tokens, "b (t p) d -> b t p d", t=groups).mean(dim=2, dtype=torch.float32)
