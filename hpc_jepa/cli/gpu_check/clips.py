"""Generated clips: coloured, smooth and moving, so that a wrong colour matrix or frame is visible in the mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.data.encode import H264, Encoding
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.source import RawFrames, RenderedClips, Sample

FPS = 24.0


def moving_colours(frames: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Frames [F, H, W, 3]: colour waves, smooth enough for subsampled chroma, that move by two pixels a frame."""
    random = np.random.default_rng(seed)
    time = np.arange(frames)[:, None, None]
    down, across = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    channels = []
    for _ in range(3):
        x, y = random.uniform(0.005, 0.02, 2)
        phase = random.uniform(0, 2 * np.pi)
        channels.append(127.5 + 100 * np.sin(x * (across + 2 * time) + y * (down - time) + phase))
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def colour_cube(frames: int, patch: int) -> NDArray[np.uint8]:
    """Still frames [F, 8 * patch, 8 * patch, 3]: flat patches of 64 colours, the saturated ones included."""
    levels = np.array([0, 85, 170, 255], np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, 8, 8, 3)
    return colours.repeat(frames, axis=0).repeat(patch, axis=1).repeat(patch, axis=2)


@dataclass(frozen=True)
class GeneratedClips(RenderedClips):
    """Unlabelled clips of :func:`moving_colours`."""

    frames: int = 32
    height: int = 256
    width: int = 340

    dataset = "generated"
    classes: ClassVar[tuple[str, ...]] = ()

    def load(self, index: int) -> Sample:
        """Render one clip."""
        return Sample(RawFrames(moving_colours(self.frames, self.height, self.width, self.first + index), FPS))


def generated_shards(folder: Path, rehearse: bool, encoding: Encoding = H264) -> Path:
    """A folder of shards: 24 clips of 32 x 256 x 340, or in a rehearsal 8 of 16 x 64 x 80."""
    source = (
        GeneratedClips("unlabelled", 0, 8, frames=16, height=64, width=80)
        if rehearse
        else GeneratedClips("unlabelled", 0, 24)
    )
    build_shards(source, folder, make_recipe(source, 16, encoding), 0, lambda samples: None)
    return folder
