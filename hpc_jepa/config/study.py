"""Configuration of a study: regimes x variants x seeds, and the benchmarks of each run."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hpc_jepa.config.benchmark import ProtocolName
from hpc_jepa.config.semantics import Preset
from hpc_jepa.config.strict import RootConfig, Strict

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class VariantConfig(Strict):
    """One variant: a composition of ``configs/objective/``, its semantics, and optionally its own seeds."""

    objective: str
    semantics: Preset = "corrected"
    seeds: tuple[Seed, ...] | None = Field(None, min_length=1, description="null: the seeds of the study")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"objective": value} if isinstance(value, str) else value


class EvaluationConfig(Strict):
    """A benchmark of ``configs/benchmark/`` and the weights to evaluate on it."""

    benchmark: str
    protocols: tuple[ProtocolName, ...] = ("standard",)
    weights: tuple[Literal["target", "student", "random_init"], ...] = ("target", "student", "random_init")


class StudyConfig(RootConfig):
    """Every combination of regime, variant and seed is one run."""

    study: str = Field(pattern=r"^\w[\w.-]*$")
    about: str = Field("", description="question and limits of the study, printed at the top of its report")
    regimes: tuple[str, ...] = Field(min_length=1, description="names of configs/regime/")
    variants: tuple[VariantConfig, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field((239,), min_length=1)
    overrides: tuple[str, ...] = Field((), description="key.sub=value, applied to every run")
    evaluations: tuple[EvaluationConfig, ...] = ()
