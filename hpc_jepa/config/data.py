"""Where clips come from and how they are cut and augmented."""

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from hpc_jepa.config.strict import Strict

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class SourceConfig(Strict):
    """One shard folder (it holds ``manifest.json``) and its share of the mixture."""

    shards: Path
    weight: float = Field(1.0, gt=0)


class ClipConfig(Strict):
    """Shape of a clip."""

    frames: int = Field(16, gt=0)
    stride: int = Field(2, gt=0, description="source frames between two clip frames")
    size: int = Field(224, gt=0, description="side of the square crop, pixels")

    @property
    def span(self) -> int:
        """Source frames a clip covers."""
        return self.frames * self.stride


class AugmentationConfig(Strict):
    """Random resized crop and flips, the same for all frames of a clip; then (x/255 - mean)/std."""

    area: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.75, 1.35)
    horizontal_flip: float = Field(0.5, ge=0, le=1)
    vertical_flip: float = Field(0.0, ge=0, le=1)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @field_validator("area", "aspect")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)} is not a range of positive numbers")
        return value

    @model_validator(mode="after")
    def _fraction(self) -> "AugmentationConfig":
        if self.area[1] > 1:
            raise ValueError("area is a fraction of the frame, at most 1")
        return self


class DataConfig(Strict):
    """A mixture of sources, read as clips."""

    sources: dict[str, SourceConfig] = Field(min_length=1)
    clip: ClipConfig = ClipConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    decode_threads: int = Field(1, gt=0, description="threads per process that read and decode")
    undecodable_rate: float = Field(
        0.01, ge=0, le=1, description="share of clips that may fail to decode before the run stops"
    )
