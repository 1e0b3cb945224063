"""Data sources, clip sampling and augmentation."""

from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hpc_jepa.config.strict import PositiveRange, Strict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


ShardLocation = Annotated[str, BeforeValidator(str)]
"""A folder, or a URL (``s3://...``, ``http://...``) that fsspec can read."""


class SourceConfig(Strict):
    """One shard folder, with a ``manifest.json``, and its weight in the mixture."""

    shards: ShardLocation
    weight: float = Field(1.0, gt=0)


class ClipConfig(Strict):
    """Shape of a clip."""

    frames: int = Field(16, gt=0)
    stride: int = Field(2, gt=0, description="source frames between clip frames")
    fps: int | None = Field(
        None,
        gt=0,
        description="clip frames per second; sets the stride from each video's frame rate, rounded down",
    )
    size: int = Field(224, gt=0, description="side of the square crop, pixels")

    def span(self, fps: float) -> int:
        """Source frames that a clip spans in a video of ``fps`` frames per second."""
        return self.frames * self.stride_at(fps)

    def stride_at(self, fps: float) -> int:
        """Source frames between clip frames: ``stride``, or the video's frame rate, rounded up, over ``self.fps``."""
        return self.stride if self.fps is None else max(1, ceil(fps) // self.fps)


class AugmentationConfig(Strict):
    """Random resized crop and flips, the same for all frames of a clip; then (x/255 - mean)/std."""

    area: PositiveRange = (0.3, 1.0)
    aspect: PositiveRange = (0.75, 1.35)
    horizontal_flip: float = Field(0.5, ge=0, le=1)
    vertical_flip: float = Field(0.0, ge=0, le=1)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @model_validator(mode="after")
    def _fraction(self) -> "AugmentationConfig":
        if self.area[1] > 1:
            raise ValueError("area is a fraction of the frame, at most 1")
        return self


class ShardOrderConfig(Strict):
    """Sample from a few tars at a time, for file systems that need long reads.

    The order differs from the default and is also a function of seed and step. Tars are replaced one by one; a new one
    is drawn with probability proportional to its number of samples.
    """

    shards: int = Field(16, gt=0, description="tars per source in use at a time")
    steps: int = Field(100, gt=0, description="steps that each tar stays in use")


def _without_removed(sources: Any) -> Any:
    """Drop the names that a later file sets to null: mappings merge, so a file could only add to those it extends."""
    if not isinstance(sources, dict):
        return sources
    return {name: source for name, source in sources.items() if source is not None}


Sampling = Literal["replacement", "passes"]
DecoderSetting = Literal["auto", "gpu", "cpu"]


class ReadingConfig(Strict):
    """Reading and prefetching of shards. Does not change the clips of a step."""

    prefetch_steps: int = Field(2, ge=0, description="steps whose samples are prefetched")
    prefetch_batches: int = Field(2, gt=0, le=1024, description="batches of clips made ahead of the step that trains")
    threads: int = Field(2, gt=0, description="prefetch threads per process")
    scratch: Path | None = Field(None, description="folder on a local disk that caches the tars in use")
    scratch_limit: float = Field(100.0, gt=0, description="size limit of that cache for all processes, GiB")
    share: Literal["auto", "off"] = Field(
        "auto", description="auto: runs of a node that read the same clips at the same time make each of them once"
    )
    share_limit: float = Field(
        2.0, gt=0, le=65536, description="shared memory for these clips, GiB; runs share if it is equal"
    )


class DataConfig(Strict):
    """A mixture of sources, read as clips."""

    sources: Annotated[dict[str, SourceConfig], BeforeValidator(_without_removed)] = Field(
        min_length=1, description="null removes a source of the file that this one extends"
    )
    clip: ClipConfig = ClipConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    images: Literal["clips", "batches"] = Field(
        "clips",
        description="clips: an image is a clip that repeats it (published); batches: separate batches of single images",
    )
    padding: Literal["repeat", "ignore"] = Field(
        "repeat",
        description="frames after the end of a video repeat its last; ignore: tubelets of them alone do not count",
    )
    sampling: Sampling = Field(
        "replacement",
        description="passes: every sample of a source once before any comes again; replacement: drawn independently",
    )
    shard_order: ShardOrderConfig | None = Field(None, description="sample from a few tars at a time; null: from all")
    decoder: DecoderSetting = Field(
        "auto", description="auto: on the GPU what its decoder supports; gpu: likewise, a GPU is required; cpu: PyAV"
    )
    decode_threads: int = Field(1, gt=0, le=1024, description="decoder threads per process")
    reading: ReadingConfig = ReadingConfig()
    undecodable_rate: float = Field(
        0.01, ge=0, le=1, description="fraction of clips that may fail to decode before the run stops"
    )

    @model_validator(mode="after")
    def _images_differ_from_clips(self) -> "DataConfig":
        if self.images == "batches" and self.clip.frames == 1:
            raise ValueError("images: batches needs clips of more than one frame")
        return self

    @model_validator(mode="after")
    def _one_order(self) -> "DataConfig":
        if self.sampling == "passes" and self.shard_order is not None:
            raise ValueError(
                "shard_order draws with replacement, sampling: passes without; set shard_order: null or sampling: "
                "replacement"
            )
        return self
