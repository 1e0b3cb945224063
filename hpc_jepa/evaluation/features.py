"""Frozen features: every encoder sees every clip once, in evaluation mode and full precision; last level only."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.evaluation.progress import Advance

Name = TypeVar("Name", bound=str)

Encode = Callable[[Tensor], Tensor]
"""Pixels [B, C, F, Hp, Wp] -> tokens [B, N, D]."""

PRECISIONS: dict[str, torch.dtype] = {"fp16": torch.float16, "fp32": torch.float32}
CHUNK = 256


@dataclass(frozen=True)
class FrozenFeatures:
    """What one encoder made of one split.

    tokens: [n, N, D] fp16 or fp32, memory-mapped, tubelet by tubelet.
    labels: [n] int64 classes.
    samples: [n] int64 index of each clip within its data set.
    tubelets: T, so that N = T * H * W.
    """

    tokens: NDArray[np.floating]
    labels: NDArray[np.int64]
    samples: NDArray[np.int64]
    tubelets: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """Channels D of a token."""
        return int(self.tokens.shape[-1])

    def batch(self, rows: NDArray[np.int64], device: torch.device) -> Tensor:
        """Tokens of the given clips [B, N, D], fp32."""
        return torch.from_numpy(self.tokens[rows]).to(device).float()

    def pooled(self, pooling: Literal["mean", "tubelets"]) -> NDArray[np.float32]:
        """Mean over all tokens [n, D], or over the cells of each tubelet, side by side [n, T * D]."""
        groups = 1 if pooling == "mean" else self.tubelets
        shape = (-1, groups, self.tokens.shape[1] // groups, self.width)
        chunks = (self.tokens[start : start + CHUNK] for start in range(0, len(self), CHUNK))
        means = [chunk.reshape(shape).mean(axis=2, dtype=np.float32) for chunk in chunks]
        return np.concatenate(means).reshape(len(self), groups * self.width)


@dataclass(frozen=True)
class Standardiser:
    """(x - mean) * scale per channel, mean and scale [D]."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: FrozenFeatures) -> Self:
        """Mean 0, variance 1 over all tokens of all clips; constant channels are only shifted."""
        total, squares = np.zeros(features.width), np.zeros(features.width)
        for start in range(0, len(features), CHUNK):
            tokens = features.tokens[start : start + CHUNK].astype(np.float64)
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


@torch.inference_mode()
def extract(
    encoders: Mapping[Name, Encode],
    clips: Iterable[tuple[Tensor, Tensor, Tensor]],
    tubelets: int,
    folder: Path,
    precision: Literal["fp16", "fp32"],
    advance: Advance,
) -> dict[Name, FrozenFeatures]:
    """Features of every encoder from one decode pass; the tokens lie in files of ``folder`` as long as it exists.

    ``clips`` yields (pixels [B, C, F, Hp, Wp], labels [B], samples [B]). ``advance`` is called once per batch.
    """
    labels, samples = [], []
    shape: tuple[int, ...] = ()
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.tokens").open("wb")) for name in encoders}
        for pixels, batch_labels, batch_samples in clips:
            labels.append(batch_labels.cpu())
            samples.append(batch_samples.cpu())
            for name, encode in encoders.items():
                tokens = encode(pixels).to(PRECISIONS[precision]).cpu().numpy()
                tokens.tofile(files[name])
                shape = tokens.shape[1:]
            advance()
    all_labels, all_samples = torch.cat(labels).numpy(), torch.cat(samples).numpy()
    return {
        name: FrozenFeatures(_map(folder / f"{name}.tokens", precision, shape), all_labels, all_samples, tubelets)
        for name in encoders
    }


def _map(path: Path, precision: Literal["fp16", "fp32"], shape: tuple[int, ...]) -> NDArray[np.floating]:
    return np.memmap(path, np.float16 if precision == "fp16" else np.float32, mode="r").reshape(-1, *shape)
