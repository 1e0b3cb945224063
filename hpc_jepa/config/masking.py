"""Mask groups: number and size of the blocks that hide tokens from the student."""

from typing import Literal

from pydantic import Field

from hpc_jepa.config.strict import PositiveRange, Strict


class MotionGuidanceConfig(Strict):
    """Motion-guided block placement: Pr(origin) proportional to (mean motion)^strength."""

    strength: float = Field(2.0, ge=0)
    random_rate: float = Field(0.1, ge=0, le=1, description="fraction of blocks placed uniformly")


class MaskGroupConfig(Strict):
    """Blocks of one mask group. Scales are fractions of the token grid."""

    blocks: int = Field(gt=0)
    spatial_scale: float = Field(gt=0, le=1)
    temporal_scale: float = Field(1.0, gt=0, le=1)
    aspect: PositiveRange = (0.75, 1.5)
    temporal_keep: float = Field(1.0, gt=0, le=1, description="leading fraction of tubelets that the context may use")
    full_complement: bool = Field(False, description="every token outside the context is a target")


class MaskingConfig(Strict):
    """All mask groups; the student sees each clip once per group."""

    groups: tuple[MaskGroupConfig, ...] = Field(
        (MaskGroupConfig(blocks=8, spatial_scale=0.15), MaskGroupConfig(blocks=2, spatial_scale=0.7)), min_length=1
    )
    motion: MotionGuidanceConfig | None = None
    context_distance_weights: bool = Field(
        True, description="divide the context loss of a token by the square root of its distance to the nearest target"
    )
    truncation_scope: Literal["global", "process"] = Field(
        "global", description="clips that share one token count: the global batch, or one process (published)"
    )
