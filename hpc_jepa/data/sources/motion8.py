"""The 8-direction motion benchmark: a disc moves over grey noise, and the label is its direction.

A clip is a function of its seed. Scenes are drawn on the published canvas of 160 pixels and 32 frames and then scaled,
so that clip i shows the same scene at every size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.data.sources.source import DataSource, RawFrames, RenderedClips, Sample
from hpc_jepa.errors import InputError

CANVAS = 160
MAX_FRAMES = 32
FPS = 8.0
FIRST_SEED = 42
FRESH_SEED = 1_000_000_000
"""Offset for the seeds of unlabelled clips from the 42nd on, which would otherwise repeat labelled scenes."""

DIRECTIONS = {
    "N": (0, -4),
    "NE": (3, -3),
    "E": (4, 0),
    "SE": (3, 3),
    "S": (0, 4),
    "SW": (-3, 3),
    "W": (-4, 0),
    "NW": (-3, -3),
}
"""Velocity (x, y) of each class on the canvas, pixels per frame, y downward."""


PROTOCOLS = {
    "published": {"train": 160, "test": 40, "size": CANVAS, "frames": MAX_FRAMES},
    "standard": {"train": 2000, "test": 1000, "size": CANVAS, "frames": MAX_FRAMES},
}
"""``published``: a test set of 40 clips, 2.5 points each; ``standard``: the same generator, more clips."""


class Scene(NamedTuple):
    """The scene of a clip, in canvas pixels. noise: [32, 160, 160, 1]; colours: [3]; start, velocity: (x, y)."""

    background: NDArray[np.uint8]
    noise: NDArray[np.uint8]
    colour: NDArray[np.uint8]
    radius: int
    start: tuple[int, int]
    velocity: tuple[int, int]


@dataclass(frozen=True)
class Motion8(RenderedClips):
    """Clips ``first`` to ``first + count - 1`` as one split, ``size`` pixels wide and high."""

    size: int = CANVAS
    frames: int = MAX_FRAMES

    dataset = "motion8"

    @property
    def classes(self) -> tuple[str, ...]:
        """The eight directions; none for unlabelled clips."""
        return () if self.split == "unlabelled" else tuple(DIRECTIONS)

    def load(self, index: int) -> Sample:
        """Render one clip."""
        number = self.first + index
        scene = unlabelled_scene(number) if self.split == "unlabelled" else labelled_scene(number)
        frames = RawFrames(render_motion8(scene, self.size, self.frames), FPS)
        if self.split == "unlabelled":
            return Sample(frames)
        label = number % len(DIRECTIONS)
        return Sample(frames, label, self.classes[label])


def motion8_splits(train: int, test: int, unlabelled: int, size: int, frames: int) -> list[DataSource]:
    """Training clips, the test clips after them, and unlabelled clips for pretraining; empty splits are left out.

    Raises InputError for an unsupported size or number of frames.
    """
    if not 16 <= size <= CANVAS or size % 2:
        raise InputError(f"size {size}: motion8 supports even sizes from 16 to {CANVAS} pixels")
    if not 1 <= frames <= MAX_FRAMES:
        raise InputError(f"frames {frames}: motion8 supports 1 to {MAX_FRAMES} frames")
    parts = (
        Motion8("train", 0, train, size, frames),
        Motion8("test", train, test, size, frames),
        Motion8("unlabelled", 0, unlabelled, size, frames),
    )
    if not train + test + unlabelled:
        raise InputError("motion8: 0 clips in every split, nothing to build")
    return [part for part in parts if part.count > 0]


def labelled_scene(number: int) -> Scene:
    """Clip ``number`` of the benchmark."""
    scene, _ = _draw(FIRST_SEED + number)
    return scene._replace(velocity=tuple(DIRECTIONS.values())[number % len(DIRECTIONS)])


def unlabelled_scene(number: int) -> Scene:
    """Clip ``number`` for pretraining: velocity uniform over the integers in [-4, 4] along both axes."""
    scene, random = _draw(number if number < FIRST_SEED else FRESH_SEED + number)
    return scene._replace(velocity=(int(random.integers(-4, 5)), int(random.integers(-4, 5))))


def _draw(seed: int) -> tuple[Scene, np.random.Generator]:
    """A scene without motion, drawn in the benchmark's order, and the generator in its state afterwards."""
    random = np.random.default_rng(seed)
    # The dtype decides which random bits are used: colours are 8-bit draws, the rest uses NumPy's default. This
    # reproduces the published numbers, 64 of 200 clips at the border and 6 off course. 32-bit noise equals the default.
    background = random.integers(0, 80, 3, dtype=np.uint8)
    noise = random.integers(0, 30, (MAX_FRAMES, CANVAS, CANVAS, 1), dtype=np.int32).astype(np.uint8)
    colour = random.integers(120, 256, 3, dtype=np.uint8)
    radius = int(random.integers(10, 40))
    start = int(random.integers(radius, CANVAS - radius)), int(random.integers(radius, CANVAS - radius))
    return Scene(background, noise, colour, radius, start, (0, 0)), random


def render_motion8(scene: Scene, size: int, frames: int) -> NDArray[np.uint8]:
    """Frames [frames, size, size, 3]: background, noise, and a disc that stops at the border."""
    scale = size / CANVAS
    radius = scene.radius * scale
    time = np.arange(frames)
    axis = np.arange(size)
    offsets = [
        axis - np.clip(scale * (start + velocity * time), radius, size - 1 - radius)[:, None]
        for start, velocity in zip(scene.start, scene.velocity, strict=True)
    ]
    across, down = (offset**2 for offset in offsets)
    inside = across[:, None, :] + down[:, :, None] <= radius**2
    noise = scene.noise[:frames, :size, :size, 0]
    # One channel at a time: an inner loop over three colours takes four times as long.
    pixels = np.empty((frames, size, size, 3), np.uint8)
    for channel, (ground, colour) in enumerate(zip(scene.background, scene.colour, strict=True)):
        pixels[..., channel] = np.where(inside, colour, ground + noise)
    return pixels
