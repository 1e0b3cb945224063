"""The configuration tree of one pretraining run."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hpc_jepa.config.data import DataConfig
from hpc_jepa.config.masking import MaskingConfig
from hpc_jepa.config.model import ModelConfig, Targets
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.config.strict import Strict
from hpc_jepa.config.training import (
    CheckpointConfig,
    EngineConfig,
    GuardConfig,
    MonitorConfig,
    OptimizerConfig,
    ScheduleConfig,
)


class ObjectiveChoice(Strict):
    """A primitive objective by name, with the options its own configuration class reads."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class RunConfig(Strict):
    """Everything that decides the outcome of a run, and where it is written."""

    study: str = Field("adhoc", pattern=r"^\w[\w.-]*$")
    regime: str = Field(pattern=r"^\w[\w.-]*$")
    variant: str = Field("baseline", pattern=r"^\w[\w.-]*$")
    seed: int = Field(239, ge=0, lt=2**63)
    runs: Path = Path("runs")
    model: ModelConfig = ModelConfig()
    data: DataConfig
    masking: MaskingConfig = MaskingConfig()
    objectives: tuple[ObjectiveChoice, ...] = ()
    semantics: Semantics = Semantics.of("corrected")
    ema: Literal["always", "unless_published", "never"] = Field(
        "always", description="never: the student makes its own targets; unless_published: so under published semantics"
    )
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    monitor: MonitorConfig = MonitorConfig()
    guard: GuardConfig = GuardConfig()

    @field_validator("objectives", mode="before")
    @classmethod
    def short_forms(cls, value: Any) -> Any:
        """Accept ``[fwm, {ld: {hidden: 128}}]`` beside the full form."""
        if not isinstance(value, list | tuple):
            return value
        return [_choice(item) for item in value]

    @model_validator(mode="after")
    def _shapes_fit(self) -> "RunConfig":
        encoder, clip = self.model.encoder, self.data.clip
        if clip.size % encoder.patch:
            raise ValueError(
                f"data.clip.size ({clip.size}) must be a multiple of model.encoder.patch ({encoder.patch})"
            )
        if clip.frames % encoder.tubelet:
            raise ValueError(
                f"data.clip.frames ({clip.frames}) must be a multiple of model.encoder.tubelet ({encoder.tubelet})"
            )
        names = [choice.name for choice in self.objectives]
        if len(names) != len(set(names)):
            raise ValueError(f"objectives names one of {names} twice")
        return self

    @property
    def folder(self) -> Path:
        """Where the run lives: RUNS/<study>/<regime>/<variant>[.published]/seed-<n>."""
        suffix = "" if self.semantics.preset == "corrected" else f".{self.semantics.preset}"
        return self.runs / self.study / self.regime / f"{self.variant}{suffix}" / f"seed-{self.seed}"

    @property
    def targets(self) -> Targets:
        """Who makes the targets."""
        if self.ema == "always" or (self.ema == "unless_published" and self.semantics.preset != "published"):
            return "ema"
        return "student" if self.semantics.online_target_gradient else "student_detached"

    def outcome_settings(self) -> dict[str, Any]:
        """What decides the outcome: not the place of the output, logging, alarms, or how the work is shared."""
        data = self.model_dump(mode="json", exclude={"runs", "monitor", "checkpoint", "guard"})
        data["data"].pop("decode_threads")
        data["data"].pop("reading")
        data["engine"].pop("zero_stage")
        data["engine"].pop("overlap_communication")
        data["engine"].pop("compile")
        return data

    def fingerprint(self) -> str:
        """Hash of everything that decides the outcome."""
        return hashlib.sha256(json.dumps(self.outcome_settings(), sort_keys=True).encode()).hexdigest()[:16]


def _choice(item: Any) -> Any:
    if isinstance(item, str):
        return {"name": item}
    if isinstance(item, dict) and len(item) == 1 and "name" not in item:
        ((name, options),) = item.items()
        return {"name": name, "options": options or {}}
    return item
