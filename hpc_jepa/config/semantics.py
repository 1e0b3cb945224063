"""Switches between the behaviour of the published code and that of the paper's text.

``published`` and ``corrected`` are presets; single switches can be overridden. B1, B2, ... are the entries of the
register in ``docs/deviations.md``.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from hpc_jepa.config.strict import Strict

Preset = Literal["published", "corrected"]

SWITCHES: dict[str, tuple[Any, Any]] = {  # published, corrected
    "ld_hw_gradient": (False, True),
    "channel_partition": ("halves", "per_level"),
    "student_norm": ("none", "level"),
    "context_ramp": ("iterations", "fractions"),
    "mask_truncation": ("raster", "raster"),
    "motion_pool": ("trilinear", "area"),
    "motion_norm": ("tubelet", "clip"),
    "auxiliary_precision": ("autocast", "fp32"),
    "batch_statistics": ("process", "global"),
    "static_clips_in_temporal_terms": (True, True),
    "evaluated_weights": ("target", "trained"),
    "kinematic_features": ("target", "student"),
    "online_target_gradient": (True, False),
    "sigreg_scale": ("samples", "one"),
    "process_randomness": ("same", "independent"),
}
PRESETS = {
    preset: {name: values[index] for name, values in SWITCHES.items()} for index, preset in enumerate(get_args(Preset))
}


class Semantics(Strict):
    """All switches. ``Semantics(preset="published", mask_truncation="tubes")`` overrides one of the preset."""

    preset: Preset = "corrected"
    ld_hw_gradient: bool = Field(description="gradient of latent dynamics beside hard-region weighting (B2)")
    channel_partition: Literal["halves", "per_level", "last_level"] = Field(description="channels that FWM splits (B3)")
    student_norm: Literal["none", "level"] = Field(description="layer norm of features in auxiliary terms (B6, B13)")
    context_ramp: Literal["iterations", "fractions"] = Field(description="ramp of the context loss (B7)")
    mask_truncation: Literal["raster", "tubes", "tokens"] = Field(description="order of truncated tokens (B9)")
    motion_pool: Literal["trilinear", "area"] = Field(description="frame differences of a token (B10)")
    motion_norm: Literal["tubelet", "clip"] = Field(description="maximum that divides the motion map (B24)")
    auxiliary_precision: Literal["autocast", "fp32"] = Field(description="precision of the auxiliary terms (B14)")
    batch_statistics: Literal["process", "global"] = Field(description="scope of pooled means and covariances")
    static_clips_in_temporal_terms: bool = Field(description="temporal terms include clips that repeat one image (B15)")
    evaluated_weights: Literal["target", "trained"] = Field(description="meaning of 'target' without EMA (B1)")
    kinematic_features: Literal["target", "student"] = Field(description="features that kinematic terms penalise (B4)")
    online_target_gradient: bool = Field(description="without EMA, the loss also trains the targets (B5)")
    sigreg_scale: Literal["samples", "one"] = Field(description="factor of SIGReg (B8)")
    process_randomness: Literal["same", "independent"] = Field(description="crops and masks of the processes (B17)")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"preset": data}
        if isinstance(data, dict):
            preset = data.get("preset")
            return {**PRESETS[preset if preset in get_args(Preset) else "corrected"], **data}
        if not isinstance(data, Semantics):
            raise ValueError("must be published, corrected, or {preset: corrected, <switch>: <value>}")
        return data

    @classmethod
    def of(cls, preset: str, **overrides: Any) -> Self:
        """A preset with some switches overridden."""
        return cls.model_validate({"preset": preset, **overrides})

    @property
    def ramp_name(self) -> Preset:
        """Name of the context ramp."""
        return "published" if self.context_ramp == "iterations" else "corrected"

    def overridden(self) -> dict[str, Any]:
        """Switches that differ from the preset."""
        return {key: getattr(self, key) for key, value in PRESETS[self.preset].items() if getattr(self, key) != value}


class VariantSemantics(Semantics):
    """Semantics of a variant of a study: a preset, or ``{preset: corrected, ld_hw_gradient: false}``."""

    @model_validator(mode="wrap")
    @classmethod
    def _remember_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Keep the written keys apart from those that the preset fills in."""
        choice = handler(data)
        if not isinstance(data, Semantics):
            choice.model_fields_set.intersection_update(data if isinstance(data, dict) else ())
        return choice

    @property
    def switches(self) -> dict[str, Any]:
        """The single switches that are written beside the preset, by name."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set & SWITCHES.keys())}

    @property
    def written(self) -> str | dict[str, Any]:
        """The shortest form in YAML: the word for a preset alone."""
        return {"preset": self.preset, **self.switches} if self.switches else self.preset


def semantics_name(preset: str, switches: Mapping[str, Any]) -> str:
    """``corrected``, and with single switches ``corrected, ld_hw_gradient: false``."""
    return ", ".join([preset, *(f"{name}: {switch_text(value)}" for name, value in switches.items())])


def preset_of(name: str) -> str:
    """The preset in a ``semantics_name``."""
    return name.partition(",")[0]


def row_label(variant: str, semantics: str) -> str:
    """The name of a row in tables: the variant, with its ``semantics_name`` unless it is corrected."""
    shown = semantics.removeprefix("corrected").removeprefix(", ")
    return f"{variant} ({shown})" if shown else variant


def switch_text(value: bool | str) -> str:
    """The value of a switch as in YAML."""
    return str(value).lower() if isinstance(value, bool) else value
