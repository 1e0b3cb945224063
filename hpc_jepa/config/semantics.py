"""The switches between what the published code computes and what the text means.

``published`` and ``corrected`` are presets; a single switch can be overridden beside them. B1, B2, ... name the
entries of the register of differences in ``docs/semantics.md``.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hpc_jepa.config.strict import Strict

Preset = Literal["published", "corrected"]

PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "ld_hw_gradient": False,
        "channel_partition": "halves",
        "student_norm": "none",
        "context_ramp": "iterations",
        "mask_truncation": "raster",
        "motion_pool": "trilinear",
        "motion_norm": "tubelet",
        "auxiliary_precision": "autocast",
        "batch_statistics": "process",
        "static_clips_in_temporal_terms": True,
        "evaluated_weights": "target",
        "kinematic_features": "target",
        "online_target_gradient": True,
        "sigreg_scale": "samples",
        "process_randomness": "same",
    },
    "corrected": {
        "ld_hw_gradient": True,
        "channel_partition": "per_level",
        "student_norm": "level",
        "context_ramp": "fractions",
        "mask_truncation": "raster",
        "motion_pool": "area",
        "motion_norm": "clip",
        "auxiliary_precision": "fp32",
        "batch_statistics": "global",
        "static_clips_in_temporal_terms": True,
        "evaluated_weights": "trained",
        "kinematic_features": "student",
        "online_target_gradient": False,
        "sigreg_scale": "one",
        "process_randomness": "independent",
    },
}


class Semantics(Strict):
    """Resolved switches. ``Semantics(preset="published", mask_truncation="tubes")`` overrides one of them."""

    preset: Preset = "corrected"
    ld_hw_gradient: bool = Field(description="latent dynamics keeps its gradient beside hard-region weighting (B2)")
    channel_partition: Literal["halves", "per_level", "last_level"] = Field(
        description="what FWM splits: the level concatenation, each level, or the last level only (B3)"
    )
    student_norm: Literal["none", "level"] = Field(
        description="student features in auxiliary terms: raw, or each level layer-normalised without gain (B6, B13)"
    )
    context_ramp: Literal["iterations", "fractions"] = Field(
        description="context-loss ramp at 15,000-30,000 steps, or over the second half of the run (B7)"
    )
    mask_truncation: Literal["raster", "tubes", "tokens"] = Field(
        description="which tokens are dropped to reach one count per batch: last in raster order, or at random (B9)"
    )
    motion_pool: Literal["trilinear", "area"] = Field(
        description="how frame differences become one value a token (B10)"
    )
    motion_norm: Literal["tubelet", "clip"] = Field(
        description="divide the motion map by the maximum of clip t, or of the clip itself (B24)"
    )
    auxiliary_precision: Literal["autocast", "fp32"] = Field(description="precision of the auxiliary terms (B14)")
    batch_statistics: Literal["process", "global"] = Field(
        description="pooled means and covariances over one process, or over the global batch"
    )
    static_clips_in_temporal_terms: bool = Field(description="repeated images take part in temporal terms (B15)")

    evaluated_weights: Literal["target", "trained"] = Field(
        description="what 'target' means without EMA: the copy that was never trained, or the student (B1)"
    )
    kinematic_features: Literal["target", "student"] = Field(
        description="kinematic terms act on the target branch, without gradient under EMA, or on student context (B4)"
    )
    online_target_gradient: bool = Field(
        description="without EMA the loss also moves the targets; SIGReg runs do so in both presets (B5)"
    )
    sigreg_scale: Literal["samples", "one"] = Field(description="SIGReg times the number of samples, or as it is (B8)")
    process_randomness: Literal["same", "independent"] = Field(
        description="all processes draw the same crops and masks for their clips, or each its own (B17)"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"preset": data}
        if isinstance(data, dict):
            return {**PRESETS.get(data.get("preset", "corrected"), {}), **data}
        return data

    @classmethod
    def of(cls, preset: str, **overrides: Any) -> Self:
        """The named preset with some switches overridden."""
        return cls.model_validate({"preset": preset, **overrides})

    def overridden(self) -> dict[str, Any]:
        """Switches that differ from the preset."""
        return {key: getattr(self, key) for key, value in PRESETS[self.preset].items() if getattr(self, key) != value}
