"""Configuration of a study: regimes x variants x seeds, and the benchmarks of each run."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from hpc_jepa.config.benchmark import ProtocolName
from hpc_jepa.config.semantics import VariantSemantics
from hpc_jepa.config.strict import RootConfig, Strict

Seed = Annotated[int, Field(ge=0, lt=2**63)]
MAX_CELLS = 10_000
"""Limit of the runs of a study."""

CELL_KEYS = {
    "seed": "list the seeds under seeds:",
    "study": "set study: instead",
    "regime": "list the regimes under regimes:",
    "variant": "list the variants under variants:",
    "semantics": "set semantics: of a variant",
    "switches": "set semantics: of a variant",
    "runs": "pass --runs to the command",
}
"""Keys of a run that a study sets for each cell, and where to set them."""


class VariantConfig(Strict):
    """One variant: a composition of ``configs/objective/``, its semantics, and optionally its own seeds."""

    objective: str
    semantics: VariantSemantics = VariantSemantics.of("corrected")
    seeds: tuple[Seed, ...] | None = Field(None, min_length=1, description="null: the seeds of the study")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"objective": value} if isinstance(value, str) else value

    @field_serializer("semantics")
    def _as_written(self, semantics: VariantSemantics) -> str | dict[str, Any]:
        return semantics.written


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

    @model_validator(mode="after")
    def _is_finite(self) -> "StudyConfig":
        cells = len(self.regimes) * sum(len(variant.seeds or self.seeds) for variant in self.variants)
        if cells > MAX_CELLS:
            raise ValueError(f"{cells:,} runs; a study has at most {MAX_CELLS:,}: divide it")
        return self

    @field_validator("overrides")
    @classmethod
    def _keeps_cells_apart(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        for override in overrides:
            key = override.partition("=")[0].strip()
            if key in CELL_KEYS:
                raise ValueError(f"'{override}' would put all cells into one run folder; {CELL_KEYS[key]}")
        return overrides
