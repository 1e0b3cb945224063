"""The interface of data sources, and the samples they provide."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

SettingValue = str | int | float | bool | None


class SampleOrigin(NamedTuple):
    """Key of a sample, unique in its split (no dots, no slashes), and its file or generator."""

    key: str
    file: str


@dataclass(frozen=True)
class RawFrames:
    """RGB frames [F, H, W, 3] to be encoded, H and W even, and their frame rate."""

    pixels: NDArray[np.uint8]
    fps: float


@dataclass(frozen=True)
class EncodedFile:
    """A video or image file; ``start`` and ``end``, in seconds, select a part of it."""

    data: bytes
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class PackedSample:
    """A sample of another shard folder: metadata as JSON and video, stored unchanged, or repaired if needed."""

    info: bytes
    data: bytes
    extension: str
    repair: bool = False


@dataclass(frozen=True)
class Sample:
    """One video and its annotations. text: a caption, or else the class name.

    cluster: name of the source video or recording that the sample was cut from; None if unknown. targets: numbers to
    predict, by name.
    """

    media: RawFrames | EncodedFile | PackedSample
    label: int | None = None
    text: str | None = None
    template: str | None = None
    placeholders: tuple[str, ...] | None = None
    cluster: str | None = None
    targets: Mapping[str, float] | None = None


class DataSource(Protocol):
    """One split of one data set: an ordered collection of samples with random access.

    Sources are pickled for worker processes, so they hold paths and settings, no open files. ``load`` raises
    UndecodableError for a sample that must be left out; the builder lists it in the ledger. A source whose samples are
    all independent of each other, as rendered ones are, has the optional attribute ``independent = True``.
    """

    @property
    def dataset(self) -> str:
        """Name of the data set."""

    @property
    def split(self) -> str:
        """Name of the split and of its shard folder."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label; empty without labels."""

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """All other settings that determine the samples: equal settings give equal shards."""

    def __len__(self) -> int: ...

    def origin(self, index: int) -> SampleOrigin:
        """Key and origin of a sample, without reading it."""

    def load(self, index: int) -> Sample:
        """Read or render a sample."""


@dataclass(frozen=True)
class RenderedClips:
    """Base of synthetic sources: clips ``first`` to ``first + count - 1`` of a benchmark as one split."""

    split: str
    first: int
    count: int

    dataset: ClassVar[str]
    independent: ClassVar[bool] = True

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """All settings that determine the pixels."""
        return {name: value for name, value in vars(self).items() if name != "split"}

    def __len__(self) -> int:
        return self.count

    def origin(self, index: int) -> SampleOrigin:
        """The key is the number of the clip in the benchmark."""
        number = self.first + index
        return SampleOrigin(f"{self.split}-{number:06d}", f"{self.dataset} clip {number}")
