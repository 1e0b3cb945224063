"""The 8-direction motion benchmark: a disc moves over grey noise, the label is the direction it moves in.

A clip is a function of its seed. Scenes are drawn on the published canvas of 160 pixels and 32 frames whatever the size
asked for, and scaled afterwards, so that clip i shows the same scene at every size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.data.sources.source import DataSource, RawFrames, Sample, SampleOrigin, SettingValue
from hpc_jepa.errors import InputError

Split = Literal["train", "test", "unlabelled"]

CANVAS = 160
MAX_FRAMES = 32
FPS = 8.0
FIRST_SEED = 42
FRESH_SEED = 1_000_000_000
"""Seeds of unlabelled clips past the 42nd start here, or they would show the very scenes of labelled ones."""

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
    "careful": {"train": 2000, "test": 1000, "size": CANVAS, "frames": MAX_FRAMES},
}
"""``published``: a test set of 40 clips, where one clip is 2.5 points; ``careful``: the same generator, enlarged."""


class Scene(NamedTuple):
    """What is drawn for a clip, in canvas pixels. noise: [32, 160, 160, 1]; colours: [3]; start, velocity: (x, y)."""

    background: NDArray[np.uint8]
    noise: NDArray[np.uint8]
    colour: NDArray[np.uint8]
    radius: int
    start: tuple[int, int]
    velocity: tuple[int, int]


@dataclass(frozen=True)
class Motion8:
    """Clips ``first`` to ``first + count - 1`` as one split, ``size`` pixels wide and high."""

    split: Split
    first: int
    count: int
    size: int = CANVAS
    frames: int = MAX_FRAMES

    dataset = "motion8"

    @property
    def classes(self) -> tuple[str, ...]:
        """The eight directions; none for unlabelled clips."""
        return () if self.split == "unlabelled" else tuple(DIRECTIONS)

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """Everything the pixels depend on."""
        return {"first": self.first, "count": self.count, "size": self.size, "frames": self.frames}

    def __len__(self) -> int:
        return self.count

    def origin(self, index: int) -> SampleOrigin:
        """Clips are named by their number in the benchmark."""
        number = self.first + index
        return SampleOrigin(f"{self.split}-{number:06d}", f"motion8 clip {number}")

    def load(self, index: int) -> Sample:
        """Render one clip."""
        number = self.first + index
        if self.split == "unlabelled":
            return Sample(RawFrames(render_motion8(unlabelled_scene(number), self.size, self.frames), FPS))
        label = number % len(DIRECTIONS)
        return Sample(
            RawFrames(render_motion8(labelled_scene(number), self.size, self.frames), FPS), label, self.classes[label]
        )


def motion8_splits(train: int, test: int, unlabelled: int, size: int, frames: int) -> list[DataSource]:
    """Training clips, the test clips that follow them, and clips for pretraining; empty splits are left out.

    Raises InputError for a size or length that cannot be rendered.
    """
    if not 16 <= size <= CANVAS or size % 2:
        raise InputError(f"size {size}: motion8 is rendered at even sizes from 16 to {CANVAS} pixels")
    if not 1 <= frames <= MAX_FRAMES:
        raise InputError(f"frames {frames}: a motion8 clip has 1 to {MAX_FRAMES} frames")
    parts = (
        Motion8("train", 0, train, size, frames),
        Motion8("test", train, test, size, frames),
        Motion8("unlabelled", 0, unlabelled, size, frames),
    )
    if not train + test + unlabelled:
        raise InputError("motion8 with 0 clips in every split: nothing to build")
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
    """A scene at rest, drawn in the benchmark's order, and the generator as it stands then."""
    random = np.random.default_rng(seed)
    # The type decides which random bits are used: colours are 8-bit draws, the rest is NumPy's default. Only so do the
    # published numbers come out, 64 of 200 clips at the border and 6 off course. 32-bit noise equals the default's.
    background = random.integers(0, 80, 3, dtype=np.uint8)
    noise = random.integers(0, 30, (MAX_FRAMES, CANVAS, CANVAS, 1), dtype=np.int32).astype(np.uint8)
    colour = random.integers(120, 256, 3, dtype=np.uint8)
    radius = int(random.integers(10, 40))
    start = int(random.integers(radius, CANVAS - radius)), int(random.integers(radius, CANVAS - radius))
    return Scene(background, noise, colour, radius, start, (0, 0)), random


def render_motion8(scene: Scene, size: int, frames: int) -> NDArray[np.uint8]:
    """Frames [frames, size, size, 3]: noise over the background, and the disc, which stops at the border."""
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
    # One channel after the other: inner loops over three colours would cost four times as much.
    pixels = np.empty((frames, size, size, 3), np.uint8)
    for channel, (ground, colour) in enumerate(zip(scene.background, scene.colour, strict=True)):
        pixels[..., channel] = np.where(inside, colour, ground + noise)
    return pixels
