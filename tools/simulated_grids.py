"""Simulated grids of a study with known truth: correct classifications by variant, pretraining seed and test clip.

The probability of a correct answer is linear in its parts, so that the true difference of two variants is exactly the
difference of their gains: ease of the clip, luck of the seed (shared by all variants), luck of the run, gain of the
variant, and the variant's effect on a video. Some clips are answered alike by all runs; clips of one video share a part
of their noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.evaluation.stats.draws import CountedScores

Spread = Literal["equal", "alternating", "random", "reference"]

UNEQUAL = 3.0
"""Ratio of the largest to the smallest standard deviation of runs."""

EASE = 0.25
VIDEO_EFFECT = 0.02
CLASS_EFFECT = 0.02
SHARED_CLIPS = 0.3
SHARED_VIDEO = 0.4
CLASSES = 20


@dataclass(frozen=True)
class Design:
    """A study to simulate. ``seed_std``: standard deviation of an accuracy between seeds at spread 1;
    ``rho``: correlation of two equal variants of one seed. ``gains``: of the first variants.

    ``clips_per_video``: smallest and largest number of test clips of one source video, None for independent clips.
    ``unbalanced``: classes of sizes 1, 1/2, 1/3, ... and variants that are better at some of them. ``missing``: share
    of runs that do not exist. ``spread``: standard deviations of runs, equal or up to threefold different: of every
    second variant, of random ones, or of the reference alone. ``prefix_seeds``: the first ones, whose runs were trained
    for a prefix of the steps, after which variants have the share ``prefix_gain`` of their gains. ``draws``: of labels,
    of a few-shot study; 0 for probes. ``draw_std``: standard deviation of what a draw does to a variant.
    """

    seeds: int
    rho: float
    spread: Spread = "equal"
    variants: int = 28
    clips: int = 1200
    clips_per_video: tuple[int, int] | None = (5, 20)
    unbalanced: bool = False
    missing: float = 0.0
    gains: tuple[float, ...] = ()
    seed_std: float = 0.03
    prefix_seeds: int = 0
    prefix_gain: float = 1.0
    draws: int = 0
    draw_std: float = 0.03


@dataclass(frozen=True)
class Grid:
    """Scores by variant and seed, the reference apart; ``truth``: true differences to the reference."""

    variants: Mapping[str, Mapping[int, NDArray[np.float64]]]
    reference: Mapping[int, NDArray[np.float64]]
    clusters: NDArray[np.int64] | None
    truth: Mapping[str, float]

    @property
    def runs(self) -> int:
        """Number of runs."""
        return len(self.reference) + sum(len(seeds) for seeds in self.variants.values())


def draw_grid(design: Design, rng: np.random.Generator) -> Grid:
    """One grid: luck of seeds, runs, videos and clips all drawn anew."""
    count, seeds, n = design.variants, design.seeds, design.clips
    videos = _videos(design, rng)
    gains = np.zeros(count)
    gains[1 : 1 + len(design.gains)] = design.gains
    reached = np.where(np.arange(seeds) < design.prefix_seeds, design.prefix_gain, 1.0)
    share = 0.5 + gains[:, None] * reached + _luck(design, rng)
    clip = rng.uniform(-EASE, EASE, n).astype(np.float32)
    effect = np.zeros((count, n), np.float32)
    if videos is not None:
        effect += rng.normal(0, VIDEO_EFFECT, (count, videos[-1] + 1)).astype(np.float32)[:, videos]
    if design.unbalanced:
        effect += _class_effect(design, videos, rng)
    limit = share.astype(np.float32)[..., None] + (clip + effect)[:, None]
    noise = _noise(count, seeds, videos, n, rng)
    right = noise < limit
    present = rng.random((count, seeds)) >= design.missing
    present[:, 0] |= ~present.any(axis=1)
    scores: list[Mapping[int, NDArray[np.float64]]] = [
        {s: right[v, s].astype(float) for s in range(seeds) if present[v, s]} for v in range(count)
    ]
    if design.draws:
        counts = _draws(design, limit, noise, rng)
        scores = [CountedScores({s: counts[v, s] for s in range(seeds) if present[v, s]}) for v in range(count)]
    names = [f"variant{v}" for v in range(count)]
    truth = dict(zip(names[1:], gains[1:].tolist(), strict=True))
    return Grid(dict(zip(names[1:], scores[1:], strict=True)), scores[0], videos, truth)


def _draws(
    design: Design, limit: NDArray[np.float32], noise: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """[V, S, D, n]: right answers under each draw of labels, half of which are those of the clip under all draws."""
    luck = rng.normal(0, design.draw_std, (design.variants, design.draws)) + rng.normal(0, 0.03, design.draws)
    counts = np.empty((*noise.shape[:2], design.draws, noise.shape[2]), np.uint8)
    for draw in range(design.draws):
        own = np.where(rng.random(noise.shape, np.float32) < 0.5, noise, rng.random(noise.shape, np.float32))
        counts[:, :, draw] = own < limit + luck[:, draw, None, None].astype(np.float32)
    return counts


def _luck(design: Design, rng: np.random.Generator) -> NDArray[np.float64]:
    """[V, S]: of each seed and each run."""
    spread = np.ones(design.variants)
    if design.spread == "alternating":
        spread[1::2] = UNEQUAL
    elif design.spread == "random":
        spread = np.where(rng.random(design.variants) < 0.5, 1.0, UNEQUAL)
    elif design.spread == "reference":
        spread[0] = UNEQUAL
    block = np.sqrt(design.rho * np.mean(spread**2)) * rng.standard_normal(design.seeds)
    own = np.sqrt(1 - design.rho) * spread[:, None] * rng.standard_normal((design.variants, design.seeds))
    return np.asarray(design.seed_std * (block + own))


def _videos(design: Design, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """[n]: number of the video of each clip, ascending."""
    if design.clips_per_video is None:
        return None
    fewest, most = design.clips_per_video
    sizes = rng.integers(fewest, most + 1, design.clips // fewest + 1)
    return np.repeat(np.arange(sizes.size), sizes)[: design.clips]


def _class_effect(design: Design, videos: NDArray[np.int64] | None, rng: np.random.Generator) -> NDArray[np.float32]:
    """[V, n]: what a variant gains on the class of a clip, zero in the mean over the population of clips."""
    shares = 1 / np.arange(1, CLASSES + 1)
    shares /= shares.sum()
    effect = rng.normal(0, CLASS_EFFECT, (design.variants, CLASSES))
    effect -= (effect @ shares)[:, None]
    own = np.arange(design.clips) if videos is None else videos
    return np.asarray(effect[:, rng.choice(CLASSES, own[-1] + 1, p=shares)][:, own], np.float32)


def _noise(
    count: int, seeds: int, videos: NDArray[np.int64] | None, n: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """[V, S, n] in [0, 1): a clip is answered correctly if its number is below the probability."""
    noise = rng.random((count, seeds, n), np.float32)
    kind = rng.random(n)
    alike = np.flatnonzero(kind < SHARED_CLIPS)
    noise[:, :, alike] = rng.random(alike.size, np.float32)
    if videos is not None:
        tied = np.flatnonzero(kind > 1 - SHARED_VIDEO)
        noise[:, :, tied] = rng.random((count, seeds, videos[-1] + 1), np.float32)[:, :, videos[tied]]
    return noise
