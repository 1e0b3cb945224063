"""Passes: samples without replacement, each pass over a source a permutation of it from seed and pass alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.data.mixture import MixtureSource
from hpc_jepa.io.random_streams import RandomStream, uniforms

ROUNDS = 12
"""Rounds of the permutation. Four would pass for random; small sources need more to reach every order."""


def permute(indices: NDArray[np.int64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The images of ``indices`` under a permutation of ``range(size)`` that the ``keys`` choose.

    A Feistel network on the places of a grid that is at least as large, applied until the result is below ``size``
    again (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). Every index is computed by itself: no
    memory that grows with ``size``, and a run that resumes in the middle of a pass computes nothing before it.
    """
    columns = isqrt(max(size - 1, 0)) + 1
    rows = -(-size // columns)
    images = indices.copy()
    outside = np.ones(len(indices), dtype=bool)
    while outside.any():  # the grid has fewer than `columns` places too many, so this ends after one or two turns
        images[outside] = _feistel(images[outside], rows, columns, keys)
        outside = images >= size
    return images


def _feistel(places: NDArray[np.int64], rows: int, columns: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Permute the places of a grid: in turn rows move by a function of the column, and columns by one of the row."""
    row, column = np.divmod(places.astype(np.uint64), np.uint64(columns))
    for number, key in enumerate(keys):
        if number % 2:
            column = (column + _mix(row ^ key)) % np.uint64(columns)
        else:
            row = (row + _mix(column ^ key)) % np.uint64(rows)
    return (row * np.uint64(columns) + column).astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014), which changes half of the bits.

    Shifted to 63 bits, so that adding a row or a column cannot overflow.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(1)


@dataclass(frozen=True)
class Shares:
    """Divides positions 0, 1, 2, ... among sources in proportion to their weights, at even distances.

    After any number of positions each of n sources has its share to within n - 1 positions. Exact: computed in
    fractions, not in floating point. A source of weight 0 has no position.
    """

    weights: Sequence[float]

    @cached_property
    def _splits(self) -> list[tuple[int, int, int]]:
        """Source, numerator and denominator of its share of what the sources before it have left."""
        exact = [Fraction(repr(float(weight))) for weight in self.weights]
        shares = [(number, weight / sum(exact[number:])) for number, weight in enumerate(exact) if weight]
        return [(number, share.numerator, share.denominator) for number, share in shares]

    def place(self, position: int) -> tuple[int, int]:
        """The source of a position, and how many positions it had before."""
        for number, share, whole in self._splits:
            before = position * share // whole
            if (position + 1) * share // whole > before:
                return number, before
            position -= before
        raise ValueError("all weights are 0")

    def counts(self, positions: int) -> list[int]:
        """Number of the first ``positions`` that each source has."""
        counts = [0] * len(self.weights)
        for number, share, whole in self._splits:
            counts[number] = positions * share // whole
            positions -= counts[number]
        return counts


@dataclass(frozen=True)
class Passes:
    """Samples of every step without replacement.

    Each source is read pass by pass, every sample once in each; a batch may hold the end of one pass and the start of
    the next. Sources take turns by weight, at even distances, so a source of weight w and n samples makes w/n passes
    while another makes w'/n'. With ``image_batches`` steps of images and of videos take turns by their total weights.
    """

    seed: int
    sources: Sequence[MixtureSource]
    batch_size: int
    image_batches: bool = False

    def samples(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source and sample of each clip of a step, [B] each."""
        kind, earlier_steps = self._kinds.place(step)
        first = earlier_steps * self.batch_size
        places = [self._shares[kind].place(first + row) for row in range(self.batch_size)]
        sources = np.array([source for source, _ in places], dtype=np.int64)
        drawn = np.array([before for _, before in places], dtype=np.int64)
        samples = np.empty_like(drawn)
        for number in np.unique(sources).tolist():
            rows = sources == number
            samples[rows] = self._in_order(number, drawn[rows])
        return sources, samples

    def counts(self, steps: int) -> list[int]:
        """Samples of each source in the first ``steps`` steps."""
        by_kind = zip(self._kinds.counts(steps), self._shares, strict=True)
        counts = [shares.counts(kind_steps * self.batch_size) for kind_steps, shares in by_kind]
        return [sum(numbers) for numbers in zip(*counts, strict=True)]

    def _in_order(self, number: int, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples of a source that follow after ``drawn`` others."""
        size = self.sources[number].size
        passes, indices = np.divmod(drawn, size)
        samples = np.empty_like(indices)
        for turn in np.unique(passes).tolist():
            uniform = uniforms(self.seed, RandomStream.PASS, turn, (ROUNDS,), part=number)
            rows = passes == turn
            samples[rows] = permute(indices[rows], size, (uniform * 2**53).astype(np.uint64))
        return samples

    @cached_property
    def _kinds(self) -> Shares:
        """Kinds of steps: all sources together, or those of videos and of images."""
        return Shares([sum(weights) for weights in self._weights_by_kind])

    @cached_property
    def _shares(self) -> list[Shares]:
        return [Shares(weights) for weights in self._weights_by_kind]

    @property
    def _weights_by_kind(self) -> list[list[float]]:
        """For each kind of step the weight of every source, 0 if it has no part in it."""
        if not self.image_batches:
            return [[source.weight for source in self.sources]]
        return [[source.weight * (source.images is images) for source in self.sources] for images in (False, True)]
