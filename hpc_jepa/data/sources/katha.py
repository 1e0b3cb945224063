"""KathaBench: a shape moves by one of eight laws of motion; background, shape, colour and size are independent of it.

A clip is a function of its number, which is its seed: random seeds would collide and leak test clips into training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.data.sources.source import DataSource, RawFrames, RenderedClips, Sample
from hpc_jepa.errors import InputError

SIDE = 224
FRAMES = 16
FPS = 10.0
CLIPS = 50_000
SHARES: dict[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}

Random = np.random.Generator
Path2D = NDArray[np.float64]
"""Centres [F, 2] (x, y) in pixels, y downward."""


class Appearance(NamedTuple):
    """Appearance of a clip. size: [F] half the side, or the radius, of the shape in pixels; colour: [F, 3]."""

    background: Literal["solid", "gradient", "noise"]
    shape: Literal["disc", "square", "triangle"]
    colour: NDArray[np.uint8]
    size: NDArray[np.float64]


def linear(random: Random, start: NDArray[np.float64], velocity: NDArray[np.float64], size: float) -> Path2D:
    """Constant velocity."""
    return start + np.arange(1, FRAMES + 1)[:, None] * velocity


def accelerated(random: Random, start: NDArray[np.float64], velocity: NDArray[np.float64], size: float) -> Path2D:
    """Constant acceleration, both components in [-2, 2]."""
    return _under(random.uniform(-2, 2, 2), start, velocity)


def parabolic(random: Random, start: NDArray[np.float64], velocity: NDArray[np.float64], size: float) -> Path2D:
    """Thrown upward, falling downward."""
    thrown = np.array([velocity[0], random.uniform(-15, -5)])
    return _under(np.array([0.0, random.uniform(1, 3)]), start, thrown)


def bounce(random: Random, start: NDArray[np.float64], velocity: NDArray[np.float64], size: float) -> Path2D:
    """The velocity is reversed where the shape touches a border."""
    centre, speed, path = start.copy(), velocity.copy(), []
    for _ in range(FRAMES):
        centre = centre + speed
        speed = np.where((centre < size) | (centre > SIDE - size), -speed, speed)
        path.append(centre)
    return np.stack(path)


def orbital(random: Random, start: NDArray[np.float64], velocity: NDArray[np.float64], size: float) -> Path2D:
    """Around the centre of the frame."""
    radius, step = random.uniform(30, 80), random.uniform(0.1, 0.5)
    first = np.arctan2(*(start - SIDE / 2)[::-1])
    angle = first + step * np.arange(1, FRAMES + 1)
    return SIDE / 2 + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def harmonic(random: Random, start: NDArray[np.float64], velocity: NDArray[np.float64], size: float) -> Path2D:
    """Oscillation along x."""
    amplitude, frequency, phase = random.uniform(20, 60), random.uniform(0.2, 0.8), random.uniform(0, 2 * np.pi)
    x = start[0] + amplitude * np.sin(frequency * np.arange(FRAMES) + phase)
    return np.stack([x, np.full(FRAMES, start[1])], axis=1)


def brownian(random: Random, start: NDArray[np.float64], velocity: NDArray[np.float64], size: float) -> Path2D:
    """Independent steps, both components in [-15, 15]."""
    path: Path2D = start + random.uniform(-15, 15, (FRAMES, 2)).cumsum(axis=0)
    return path


def two_bodies(random: Random, start: NDArray[np.float64], velocity: NDArray[np.float64], size: float) -> Path2D:
    """Two objects that attract each other with 50 / d^2; centres [F, 4], first object first."""
    centres = np.stack([start, random.uniform(0.2, 0.8, 2) * SIDE])
    speeds = np.stack([velocity, -velocity])
    path = []
    for _ in range(FRAMES):
        offset = centres[1] - centres[0]
        distance = max(float(np.linalg.norm(offset)), 1.0)
        pull = 50 / distance**2 * offset / distance
        speeds = speeds + np.stack([pull, -pull])
        centres = centres + speeds
        path.append(centres.ravel())
    return np.stack(path)


def _under(acceleration: NDArray[np.float64], start: NDArray[np.float64], velocity: NDArray[np.float64]) -> Path2D:
    """v += a, x += v in every frame."""
    speeds = velocity + np.arange(1, FRAMES + 1)[:, None] * acceleration
    path: Path2D = start + speeds.cumsum(axis=0)
    return path


Law = Callable[[Random, NDArray[np.float64], NDArray[np.float64], float], Path2D]

LAWS: dict[str, Law] = {
    "linear": linear,
    "accelerated": accelerated,
    "parabolic": parabolic,
    "bounce": bounce,
    "orbital": orbital,
    "harmonic": harmonic,
    "brownian": brownian,
    "two_bodies": two_bodies,
}
"""Classes by label."""


@dataclass(frozen=True)
class Katha(RenderedClips):
    """Clips ``first`` to ``first + count - 1`` as one split."""

    dataset = "katha"

    @property
    def classes(self) -> tuple[str, ...]:
        """The laws of motion."""
        return tuple(LAWS)

    def load(self, index: int) -> Sample:
        """Render one clip."""
        number = self.first + index
        label = number % len(LAWS)
        return Sample(RawFrames(render_katha(number), FPS), label, self.classes[label].replace("_", " "))


def katha_splits(clips: int = CLIPS) -> list[DataSource]:
    """Training, validation and test clips, 70 / 10 / 20. Raises InputError if a split would be empty."""
    if clips < 10:
        raise InputError(f"clips {clips}: katha is split 70 / 10 / 20 and needs at least 10 clips")
    sources: list[DataSource] = []
    first = 0
    for split, share in SHARES.items():
        count = round(clips * share) if split != "test" else clips - first
        sources.append(Katha(split, first, count))
        first += count
    return sources


def render_katha(number: int) -> NDArray[np.uint8]:
    """Frames [16, 224, 224, 3] of a clip."""
    random = np.random.default_rng(number)
    appearance = draw_appearance(random)
    centres = draw_path(random, number % len(LAWS), appearance)
    frames = draw_background(random, appearance.background)
    for bodies in np.split(centres, centres.shape[1] // 2, axis=1):
        inside = covered(appearance.shape, bodies, appearance.size)
        frames = np.where(inside[..., None], appearance.colour[:, None, None], frames)
    return frames.astype(np.uint8)


def draw_appearance(random: Random) -> Appearance:
    """Background, shape, a colour that may shift by 10 per frame, a size that may oscillate."""
    background: Literal["solid", "gradient", "noise"] = ("solid", "gradient", "noise")[random.integers(3)]
    shape: Literal["disc", "square", "triangle"] = ("disc", "square", "triangle")[random.integers(3)]
    colour, shifts, swings = random.integers(0, 256, 3), random.random() < 0.5, random.random() < 0.5
    time = np.arange(FRAMES)
    colours = (colour + 10 * shifts * time[:, None]) % 255 if shifts else np.tile(colour, (FRAMES, 1))
    size = random.uniform(10, 30) * (1 + 0.5 * np.sin(0.5 * time) * swings)
    return Appearance(background, shape, colours.astype(np.uint8), size)


def draw_path(random: Random, label: int, appearance: Appearance) -> Path2D:
    """Centres of all objects [F, 2 * objects], clipped to the frame except for bouncing ones."""
    start, velocity = random.uniform(0.2, 0.8, 2) * SIDE, random.uniform(-10, 10, 2)
    law = tuple(LAWS.values())[label]
    path = law(random, start, velocity, float(appearance.size[0]))
    return path if law is bounce else path.clip(0, SIDE - 1)


def draw_background(random: Random, kind: str) -> NDArray[np.uint8]:
    """[F, 224, 224, 3]: a new colour per frame, a grey gradient that moves down, or pixel noise."""
    if kind == "solid":
        return np.broadcast_to(random.integers(0, 256, (FRAMES, 1, 1, 3), dtype=np.uint8), (FRAMES, SIDE, SIDE, 3))
    if kind == "noise":
        return random.integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    rows = (np.arange(SIDE) + 5 * np.arange(FRAMES)[:, None]) % SIDE
    grey = (rows * 255 / (SIDE - 1)).astype(np.uint8)
    return np.broadcast_to(grey[:, :, None, None], (FRAMES, SIDE, SIDE, 3))


def covered(shape: str, centres: Path2D, size: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[F, 224, 224]: mask of a disc, a square, or a triangle that points up."""
    axis = np.arange(SIDE)
    across, down = (axis - centre[:, None] for centre in centres.T)
    across, down, reach = across[:, None, :], down[:, :, None], size[:, None, None]
    if shape == "disc":
        return np.asarray(across**2 + down**2 <= reach**2)
    if shape == "square":
        return np.asarray((np.abs(across) <= reach) & (np.abs(down) <= reach))
    return np.asarray((np.abs(down) <= reach) & (2 * np.abs(across) <= down + reach))
