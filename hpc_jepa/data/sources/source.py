"""What a data set must offer to become shards."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

SettingValue = str | int | float | bool | None


class SampleOrigin(NamedTuple):
    """Name of a sample within its split (no dots, no slashes) and the file or generator it comes from."""

    key: str
    file: str


@dataclass(frozen=True)
class RawFrames:
    """RGB frames [F, H, W, 3] still to be compressed, H and W even, and their rate per second."""

    pixels: NDArray[np.uint8]
    fps: float


@dataclass(frozen=True)
class EncodedFile:
    """A video or image file as it was found. Only ``start`` to ``end``, in seconds, is meant where these are given."""

    data: bytes
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class PackedSample:
    """A sample out of another shard folder: its description, as JSON, and its video go into the tar as they are."""

    info: bytes
    data: bytes
    extension: str


@dataclass(frozen=True)
class Sample:
    """One video and what is known about it. text: a caption, or else the class name."""

    media: RawFrames | EncodedFile | PackedSample
    label: int | None = None
    text: str | None = None
    template: str | None = None
    placeholders: tuple[str, ...] | None = None


class DataSource(Protocol):
    """One split of one data set: an ordered collection of samples, read at random.

    It is sent to worker processes, so it holds paths and settings, no open files. ``load`` raises UndecodableError for
    a sample that must be left out; the builder then records it in the ledger.
    """

    @property
    def dataset(self) -> str:
        """Name of the data set."""

    @property
    def split(self) -> str:
        """Name of the split, and of the folder its shards go to."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label; empty where there are no labels."""

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """Whatever else decides the content: two sources with equal settings give equal shards."""

    def __len__(self) -> int: ...

    def origin(self, index: int) -> SampleOrigin:
        """Where a sample comes from, known without reading it."""

    def load(self, index: int) -> Sample:
        """Read or render a sample."""
