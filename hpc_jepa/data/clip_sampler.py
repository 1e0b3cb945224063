"""The clip sampler: samples of each step and the random numbers of their augmentation, from seed and step alone."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.data import Sampling, ShardOrderConfig
from hpc_jepa.data.crop import CROP_ATTEMPTS
from hpc_jepa.data.mixture import MixtureSource
from hpc_jepa.data.passes import Passes
from hpc_jepa.io.random_streams import RandomStream, uniforms


@dataclass(frozen=True)
class ClipDraws:
    """Random draws of the global batch of one step, one row per clip.

    sources: [B] int64, index of the source within the mixture.
    samples: [B] int64, index of the sample within its source.
    starts: [B] uniforms in [0, 1) for the start of the clip.
    crops: [B, attempts, 4] uniforms for the random resized crop.
    flips: [B, 2] uniforms for the horizontal and the vertical flip.
    """

    sources: NDArray[np.int64]
    samples: NDArray[np.int64]
    starts: NDArray[np.float64]
    crops: NDArray[np.float64]
    flips: NDArray[np.float64]


@dataclass(frozen=True)
class ClipSampler:
    """Draws the source of each clip by weight, then a sample of that source uniformly, with replacement or in passes.

    batch_size: clips of all processes together.
    repeats: equal parts of the batch that share crops and flips, as processes that share a seed do (B17).
    order: draw from a few tars at a time. Over all steps every sample is still drawn equally often.
    image_batches: each batch holds images only or videos only, images as often as their share of the weights.
    sampling: ``passes`` reads every sample of a source once before any comes again; see :class:`Passes`.
    """

    seed: int
    sources: Sequence[MixtureSource]
    batch_size: int
    repeats: int = 1
    order: ShardOrderConfig | None = None
    image_batches: bool = False
    sampling: Sampling = "replacement"

    def samples(self, step: int) -> ClipDraws:
        """Draws for all clips of a step."""
        batch = self.batch_size
        sources, samples = self.drawn(step)
        return ClipDraws(
            sources=sources,
            samples=samples,
            starts=uniforms(self.seed, RandomStream.CLIP_START, step, (batch,), repeats=self.repeats),
            crops=uniforms(self.seed, RandomStream.CROP, step, (batch, CROP_ATTEMPTS, 4), repeats=self.repeats),
            flips=uniforms(self.seed, RandomStream.FLIP, step, (batch, 2), repeats=self.repeats),
        )

    def drawn(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source and sample of each clip of a step, [B] each."""
        if self.sampling == "passes":
            return self._passes.samples(step)
        uniform = uniforms(self.seed, RandomStream.SAMPLE, step, (self.batch_size, 2))
        sources = self._sources(step, uniform[:, 0])
        return sources, self._uniform_samples(step, sources, uniform[:, 1])

    def next_uses(self, step: int, number: int, order: ShardOrderConfig, terms: int) -> dict[int, int]:
        """The tars of a source that are in use from ``step`` on in the next ``terms`` terms of each slot, each with the
        first step at which it is.
        """
        uses: dict[int, int] = {}
        first = step // order.steps
        for term in range(first, first + terms + 1):
            for slot, tar in enumerate(self._chosen_tars(term, number, order).tolist()):
                begin = term * order.steps - slot * order.steps // order.shards
                if begin + order.steps > step:
                    uses[tar] = min(uses.get(tar, sys.maxsize), max(begin, step))
        return uses

    def replacements(self, step: int, attempt: int) -> NDArray[np.int64]:
        """[B] replacement samples, each from the source of the sample it replaces; ``attempt`` counts from 0."""
        sources = self.samples(step).sources
        uniform = uniforms(self.seed, RandomStream.REPLACEMENT, step, (self.batch_size,), part=attempt)
        return self._uniform_samples(step, sources, uniform)

    def passes(self, steps: int) -> list[float]:
        """Samples of each source in the first ``steps`` steps over its size; with replacement their expected number."""
        if self.sampling == "passes":
            counts: list[float] = [*self._passes.counts(steps)]
        else:
            weights = [source.weight for source in self.sources]
            counts = [steps * self.batch_size * weight / sum(weights) for weight in weights]
        return [count / source.size for count, source in zip(counts, self.sources, strict=True)]

    @cached_property
    def _passes(self) -> Passes:
        return Passes(self.seed, self.sources, self.batch_size, self.image_batches)

    def _sources(self, step: int, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """The source of each row, by weight among the sources eligible in this step."""
        weights = np.array([source.weight for source in self.sources])
        if self.image_batches:
            images = np.array([source.images for source in self.sources])
            share = weights[images].sum() / weights.sum()
            is_image_step = uniforms(self.seed, RandomStream.MODALITY, step, (1,))[0] < share
            weights = weights * (images == is_image_step)
        cumulative = np.cumsum(weights)
        return np.searchsorted(cumulative / cumulative[-1], uniform, side="right")

    def _uniform_samples(
        self, step: int, sources: NDArray[np.int64], uniform: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """A sample of each row's source: from all of it, or from the tars that are active in this step."""
        if self.order is None:
            sizes: NDArray[np.int64] = np.array([source.size for source in self.sources])[sources]
            return (uniform * sizes).astype(np.int64, copy=False)
        active = [self._active_tars(step, number, self.order) for number in range(len(self.sources))]
        draws = zip(sources.tolist(), uniform.tolist(), strict=True)
        rows = [self._sample_from_tars(source, active[source], draw) for source, draw in draws]
        return np.array(rows, dtype=np.int64)

    def _sample_from_tars(self, number: int, tars: NDArray[np.int64], uniform: float) -> int:
        """One uniform selects a tar and, by its remainder, a sample in it."""
        slot, rest = divmod(uniform * len(tars), 1)
        tar = tars[int(slot)]
        source = self.sources[number]
        return int(source.ends[tar] - source.shard_sizes[tar] + int(rest * source.shard_sizes[tar]))

    def _active_tars(self, step: int, number: int, order: ShardOrderConfig) -> NDArray[np.int64]:
        """The tar in each slot of a source. Slots change their tar every ``order.steps`` steps, one slot at a time."""
        slots = order.shards
        terms = [(step + slot * order.steps // slots) // order.steps for slot in range(slots)]
        chosen = {term: self._chosen_tars(term, number, order) for term in set(terms)}
        return np.array([chosen[term][slot] for slot, term in enumerate(terms)], dtype=np.int64)

    def _chosen_tars(self, term: int, number: int, order: ShardOrderConfig) -> NDArray[np.int64]:
        """[slots]: the tar that each slot of a source has in one of its terms."""
        source = self.sources[number]
        chosen = uniforms(self.seed, RandomStream.SHARD, term, (order.shards,), part=number)
        return np.searchsorted(source.ends, chosen * source.size, side="right")
