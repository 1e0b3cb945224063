"""Small shard folders from the real builder, and sources for unusual ones."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources import motion8
from hpc_jepa.data.sources.source import DataSource, EncodedFile, RawFrames, Sample, SampleOrigin, SettingValue

SIZE, FRAMES = 32, 16


@dataclass(frozen=True)
class Listed:
    """A source given as a list of media."""

    media: tuple[RawFrames | EncodedFile, ...]

    dataset = "listed"
    split = "train"
    classes: tuple[str, ...] = ()

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        return {"count": len(self.media)}

    def __len__(self) -> int:
        return len(self.media)

    def origin(self, index: int) -> SampleOrigin:
        return SampleOrigin(f"item-{index:03d}", f"item {index} of a list")

    def load(self, index: int) -> Sample:
        return Sample(self.media[index], label=index % 3)


@pytest.fixture(scope="session")
def listed() -> type[Listed]:
    return Listed


@pytest.fixture(scope="session")
def built() -> Callable[[DataSource, Path, int], Path]:
    """Build a source in this process."""

    def _build(source: DataSource, folder: Path, samples_per_shard: int = 10) -> Path:
        build_shards(source, folder, make_recipe(source, samples_per_shard), 0, lambda samples: None)
        return folder

    return _build


@pytest.fixture(scope="session")
def shards(tmp_path_factory, built) -> Path:
    """motion8 with train (24), test (8) and unlabelled (16) clips of 32 pixels and 16 frames."""
    out = tmp_path_factory.mktemp("motion8")
    for source in motion8.motion8_splits(train=24, test=8, unlabelled=16, size=SIZE, frames=FRAMES):
        built(source, out / source.split)
    return out


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """Frames in which no two are alike."""

    def _noise(frames: int, height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (frames, height // 8, width // 8, 3), dtype=np.uint8)
        return coarse.repeat(8, axis=1).repeat(8, axis=2)

    return _noise


@pytest.fixture(scope="session")
def encoded_with() -> Callable[..., bytes]:
    """Frames encoded by any encoder with any options."""

    def _encode(frames: np.ndarray, codec: str, container: str, options: dict[str, str]) -> bytes:
        file = io.BytesIO()
        with av.open(file, "w", format=container) as output:
            stream = output.add_stream(codec, rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            for picture in frames:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            output.mux(stream.encode())
        return file.getvalue()

    return _encode
