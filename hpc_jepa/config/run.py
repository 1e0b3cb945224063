"""Configuration of one pretraining run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from hpc_jepa.config.data import DataConfig
from hpc_jepa.config.fingerprint import fingerprint, fingerprint_v1
from hpc_jepa.config.init import InitConfig
from hpc_jepa.config.loading import did_you_mean, nearest_or_all, read_config
from hpc_jepa.config.masking import MaskingConfig
from hpc_jepa.config.model import ModelConfig, Targets
from hpc_jepa.config.phases import Ramp
from hpc_jepa.config.renamed_keys import old_keys
from hpc_jepa.config.semantics import SWITCHES, Semantics, semantics_name, switch_text
from hpc_jepa.config.strict import RootConfig, SettingError, Strict
from hpc_jepa.config.training import (
    CheckpointConfig,
    EngineConfig,
    GuardConfig,
    MonitorConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from hpc_jepa.io.flatten import flatten

if TYPE_CHECKING:
    from hpc_jepa.types import TokenGrid

MAX_TOKENS = 2**20
"""Limit of the tokens of a clip: far beyond any model, and below what ends in an error of the allocator."""

IRRELEVANT_KEYS: dict[str, Any] = {
    "runs": True,
    "switches": True,
    "monitor": True,
    "checkpoint": True,
    "guard": True,
    "init": {"file"},
    "data": {"decoder", "decode_threads", "reading"},
    "engine": {"device", "accumulation", "zero_stage", "overlap_communication", "compile", "deterministic"},
}
"""Keys that do not change the outcome of a run: output, logging, alarms, and how the work is divided."""

MAX_FOLDER_NAME = 200
"""Characters of a folder name that lists switches; file systems allow 255 bytes."""


class ObjectiveChoice(Strict):
    """A primitive objective by name, with options that its own class validates."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """``fwm`` and ``{ld: {hidden: 128}}``."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and len(value) == 1 and "name" not in value:
            ((name, options),) = value.items()
            return {"name": name, "options": options or {}}
        return value


class RunConfig(RootConfig):
    """Everything that decides the outcome of a run, and where the run is written."""

    study: str = Field("adhoc", pattern=r"^\w[\w.-]*$")
    regime: str = Field(pattern=r"^\w[\w.-]*$")
    variant: str = Field("baseline", pattern=r"^\w[\w.-]*$")
    seed: int = Field(239, ge=0, lt=2**63)
    runs: Path = Path("runs")
    init: InitConfig | None = Field(None, description="null: the networks are initialised from the seed")
    model: ModelConfig = ModelConfig()
    data: DataConfig
    masking: MaskingConfig = MaskingConfig()
    objectives: tuple[ObjectiveChoice, ...] = ()
    semantics: Semantics = Semantics.of("corrected")
    switches: tuple[str, ...] = Field((), description="switches of semantics: that the run is named after")
    ema: Literal["always", "unless_published", "never"] = Field(
        "always", description="never: the student makes its own targets; unless_published: so under published semantics"
    )
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    monitor: MonitorConfig = MonitorConfig()
    guard: GuardConfig = GuardConfig()

    ADDED_KEYS: ClassVar[tuple[str, ...]] = (
        "engine.tf32",
        "engine.loss_scale",
        "schedule.phases",
        "data.sampling",
        "data.padding",
        "init",
        "model.encoder.norm_blocks",
        "model.predictor.embed",
        "masking.context_distance_weights",
    )
    """Dotted keys that decide the outcome and that release 0.1 did not have; see ``config/fingerprint.py``."""

    @field_validator("objectives")
    @classmethod
    def _no_duplicates(cls, choices: tuple[ObjectiveChoice, ...]) -> tuple[ObjectiveChoice, ...]:
        names = [choice.name for choice in choices]
        if len(names) != len(set(names)):
            raise ValueError(f"one of {', '.join(names)} is listed twice")
        return choices

    @field_validator("switches")
    @classmethod
    def _switches_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in SWITCHES:
                raise ValueError(f"'{name}' is not a switch of semantics:{nearest_or_all(name, SWITCHES)}")
        return tuple(sorted(set(names)))

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
        tokens = (clip.frames // encoder.tubelet) * (clip.size // encoder.patch) ** 2
        if tokens > MAX_TOKENS:
            message = f"{tokens:,} tokens in a clip, at most {MAX_TOKENS:,}; use fewer or smaller frames"
            raise SettingError(("data", "clip"), message)
        return self

    @model_validator(mode="after")
    def _begins_before_its_end(self) -> "RunConfig":
        if self.init is not None and self.init.count == "continue":
            if self.init.step is None:
                raise SettingError(("init", "step"), "required with count: continue")
            if self.init.step >= self.schedule.steps:
                raise SettingError(
                    ("init", "step"),
                    f"step {self.init.step:,} of a run of {self.schedule.steps:,} steps leaves nothing to train; "
                    "raise schedule.steps, or set init.count=own",
                )
        return self

    @model_validator(mode="after")
    def _accepted_settings_exist(self) -> "RunConfig":
        known = {f"data.sources.{name}" for name in self.data.sources} | set(flatten(self.model_dump(mode="json")))
        for accepted in self.checkpoint.accept:
            if not any(f"{key}.".startswith(f"{accepted}.") for key in known):
                nearest = did_you_mean(accepted, known)
                raise ValueError(f"checkpoint.accept: '{accepted}' is not a setting{nearest}")
        return self

    @property
    def folder(self) -> Path:
        """The run folder: RUNS/<study>/<regime>/<variant>[.published][.<switch>=<value>]/seed-<n>."""
        preset = () if self.semantics.preset == "corrected" else (self.semantics.preset,)
        switches = [f"{name}={switch_text(value)}" for name, value in self.named_switches.items()]
        named = ".".join((self.variant, *preset, *switches))
        if len(named) > MAX_FOLDER_NAME:
            named = ".".join((self.variant, *preset, f"switches={fingerprint(self.named_switches)}"))
        return self.runs / self.study / self.regime / named / f"seed-{self.seed}"

    @property
    def named_switches(self) -> dict[str, Any]:
        """Values of ``switches``."""
        return {name: getattr(self.semantics, name) for name in self.switches}

    @property
    def semantics_name(self) -> str:
        """The preset and the named switches; a run has its own row in a report for each."""
        return semantics_name(self.semantics.preset, self.named_switches)

    @property
    def targets(self) -> Targets:
        """The network that computes the targets."""
        if self.ema == "always" or (self.ema == "unless_published" and self.semantics.preset != "published"):
            return "ema"
        return "student" if self.semantics.online_target_gradient else "student_detached"

    @property
    def context_ramps(self) -> tuple[Ramp, ...]:
        """The weight of the context loss over the run."""
        return self.schedule.context_ramps(self.semantics.ramp_name)

    @property
    def grid(self) -> "TokenGrid":
        """Token grid of a video clip."""
        from hpc_jepa.types import TokenGrid  # imports torch; commands that only read configuration start without it

        side = self.data.clip.size // self.model.encoder.patch
        return TokenGrid(self.data.clip.frames // self.model.encoder.tubelet, side, side)

    @property
    def image_grid(self) -> "TokenGrid":
        """Token grid of a single image."""
        return replace(self.grid, time=1, image=True)

    def outcome_settings(self) -> dict[str, Any]:
        """Every setting that decides the outcome, keyed as now."""
        return self.model_dump(mode="json", exclude=IRRELEVANT_KEYS)

    def fingerprint(self) -> str:
        """Hash of the settings that decide the outcome and differ from the defaults."""
        return fingerprint(self._changed_settings())

    def known_fingerprints(self) -> set[str]:
        """The fingerprint of this configuration, and the one that release 0.1 gave it."""
        changed = self._changed_settings()
        return {fingerprint(changed), *fingerprint_v1(old_keys(self.outcome_settings()), self.ADDED_KEYS, changed)}

    def _changed_settings(self) -> dict[str, Any]:
        changed = self.model_dump(mode="json", exclude=IRRELEVANT_KEYS, exclude_defaults=True)
        if "semantics" in changed:
            changed["semantics"] = {"preset": self.semantics.preset, **self.semantics.overridden()}
        if not changed.get("engine", True):  # it differs in keys that do not change the outcome
            del changed["engine"]
        return changed


def load_config(*layers: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Configuration of a run from YAML files, merged from left to right, and ``key.sub=value`` overrides.

        >>> import hpc_jepa
        >>> config = hpc_jepa.load_config("configs/regime/quickstart.yaml", overrides=["schedule.steps=20"])
        >>> config.schedule.steps
        20

    Raises InputError with file, line and key of the first error.
    """
    return read_config(RunConfig, layers, overrides)
