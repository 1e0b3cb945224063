"""Which samples a step sees, and every random number that cuts and turns them: a pure function of seed and step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.data.crop import ATTEMPTS
from hpc_jepa.kernels.randomness import Stream, uniforms


@dataclass(frozen=True)
class Draws:
    """The global batch of one step, one row per clip.

    sources: [B] int64, index of the source within the mixture.
    samples: [B] int64, index of the sample within its source.
    starts: [B] uniforms in [0, 1), where the clip starts.
    crops: [B, attempts, 4] uniforms for the random resized crop.
    flips: [B, 2] uniforms for the horizontal and the vertical flip.
    """

    sources: NDArray[np.int64]
    samples: NDArray[np.int64]
    starts: NDArray[np.float64]
    crops: NDArray[np.float64]
    flips: NDArray[np.float64]


@dataclass(frozen=True)
class Sampler:
    """A mixture: the source of each clip by weight, then a sample of it uniformly, with replacement.

    sizes, weights: number of samples and relative weight of each source. batch_size: clips of all processes together.
    repeats: equal parts of the batch that are cut and turned alike, as by processes that share a seed (B17).
    """

    seed: int
    sizes: Sequence[int]
    weights: Sequence[float]
    batch_size: int
    repeats: int = 1

    def samples(self, step: int) -> Draws:
        """All clips of a step."""
        batch = self.batch_size
        which = uniforms(self.seed, Stream.SAMPLE, step, (batch, 2))
        shares = np.cumsum(self.weights) / np.sum(self.weights)
        sources = np.searchsorted(shares[:-1], which[:, 0], side="right")
        return Draws(
            sources=sources,
            samples=self._uniform_sample(sources, which[:, 1]),
            starts=uniforms(self.seed, Stream.CLIP_START, step, (batch,), repeats=self.repeats),
            crops=uniforms(self.seed, Stream.CROP, step, (batch, ATTEMPTS, 4), repeats=self.repeats),
            flips=uniforms(self.seed, Stream.FLIP, step, (batch, 2), repeats=self.repeats),
        )

    def replacements(self, step: int, attempt: int) -> NDArray[np.int64]:
        """[B] samples to take instead, each from the source of the one it replaces; ``attempt`` counts from 0."""
        sources = self.samples(step).sources
        return self._uniform_sample(
            sources, uniforms(self.seed, Stream.REPLACEMENT, step, (self.batch_size,), part=attempt)
        )

    def _uniform_sample(self, sources: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        sizes: NDArray[np.int64] = np.asarray(self.sizes, dtype=np.int64)[sources]
        return (uniform * sizes).astype(np.int64, copy=False)
