"""Which samples a step sees, and every random number that cuts and turns them: a pure function of seed and step."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.data import ShardOrderConfig
from hpc_jepa.data.crop import CROP_ATTEMPTS
from hpc_jepa.io.random_streams import RandomStream, uniforms


@dataclass(frozen=True)
class ClipDraws:
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
class MixtureSource:
    """What the sampler knows of a source: relative weight, samples of each of its tars, whether it is images alone."""

    weight: float
    shard_sizes: Sequence[int]
    images: bool = False
    ends: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", np.cumsum(self.shard_sizes, dtype=np.int64))

    @property
    def size(self) -> int:
        """Samples."""
        return int(self.ends[-1])


@dataclass(frozen=True)
class ClipSampler:
    """A mixture: the source of each clip by weight, then a sample of it uniformly, with replacement.

    batch_size: clips of all processes together.
    repeats: equal parts of the batch that are cut and turned alike, as by processes that share a seed (B17).
    order: draw from a few tars at a time. Over all steps every sample is still drawn equally often.
    image_batches: a step takes images alone or videos alone, images as often as their share of the weights says.
    """

    seed: int
    sources: Sequence[MixtureSource]
    batch_size: int
    repeats: int = 1
    order: ShardOrderConfig | None = None
    image_batches: bool = False

    def samples(self, step: int) -> ClipDraws:
        """All clips of a step."""
        batch = self.batch_size
        which = uniforms(self.seed, RandomStream.SAMPLE, step, (batch, 2))
        sources = self._sources(step, which[:, 0])
        return ClipDraws(
            sources=sources,
            samples=self._uniform_samples(step, sources, which[:, 1]),
            starts=uniforms(self.seed, RandomStream.CLIP_START, step, (batch,), repeats=self.repeats),
            crops=uniforms(self.seed, RandomStream.CROP, step, (batch, CROP_ATTEMPTS, 4), repeats=self.repeats),
            flips=uniforms(self.seed, RandomStream.FLIP, step, (batch, 2), repeats=self.repeats),
        )

    def replacements(self, step: int, attempt: int) -> NDArray[np.int64]:
        """[B] samples to take instead, each from the source of the one it replaces; ``attempt`` counts from 0."""
        sources = self.samples(step).sources
        uniform = uniforms(self.seed, RandomStream.REPLACEMENT, step, (self.batch_size,), part=attempt)
        return self._uniform_samples(step, sources, uniform)

    def _sources(self, step: int, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """The source of each row, by weight among those that take part in the step."""
        weights = np.array([source.weight for source in self.sources])
        if self.image_batches:
            images = np.array([source.images for source in self.sources])
            share = weights[images].sum() / weights.sum()
            images_now = uniforms(self.seed, RandomStream.MODALITY, step, (1,))[0] < share
            weights = weights * (images == images_now)
        shares = np.cumsum(weights)
        return np.searchsorted(shares / shares[-1], uniform, side="right")

    def _uniform_samples(
        self, step: int, sources: NDArray[np.int64], uniform: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """A sample of each row's source: from all of it, or from the tars that are open in this step."""
        if self.order is None:
            sizes: NDArray[np.int64] = np.array([source.size for source in self.sources])[sources]
            return (uniform * sizes).astype(np.int64, copy=False)
        opened = [self._opened(step, number, self.order) for number in range(len(self.sources))]
        rows = [self._within(s, opened[s], u) for s, u in zip(sources.tolist(), uniform.tolist(), strict=True)]
        return np.array(rows, dtype=np.int64)

    def _within(self, number: int, opened: NDArray[np.int64], uniform: float) -> int:
        """One number in [0, 1) chooses an open tar and, by what is left of it, a sample there."""
        slot, rest = divmod(uniform * len(opened), 1)
        tar = opened[int(slot)]
        source = self.sources[number]
        return int(source.ends[tar] - source.shard_sizes[tar] + int(rest * source.shard_sizes[tar]))

    def _opened(self, step: int, number: int, order: ShardOrderConfig) -> NDArray[np.int64]:
        """The tar in each slot of a source. One slot after the other gets a new one, each after ``order.steps``."""
        source, slots = self.sources[number], order.shards
        terms = [(step + slot * order.steps // slots) // order.steps for slot in range(slots)]
        chosen = [
            uniforms(self.seed, RandomStream.SHARD, term, (slots,), part=number)[slot]
            for slot, term in enumerate(terms)
        ]
        return np.searchsorted(source.ends, np.array(chosen) * source.size, side="right")
