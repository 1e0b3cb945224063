"""Variants and phases of a study: what each run is made of, and which settings a study keeps for itself."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, field_serializer, field_validator, model_validator

from hpc_jepa.config.semantics import VariantSemantics, row_label, semantics_name
from hpc_jepa.config.strict import Strict
from hpc_jepa.config.sweep import override_key, settings_name
from hpc_jepa.config.yaml_reader import parse_value


def _check_distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if twice := [seed for seed, count in Counter(seeds).items() if count > 1]:
        raise ValueError(f"seed {twice[0]} is listed twice")
    return seeds


Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[tuple[Seed, ...], AfterValidator(_check_distinct)]

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


def sets_key(override: str, axis: str) -> bool:
    """Whether ``key.sub=value`` sets the key of an axis, itself or in a mapping."""
    key = override_key(override)
    if key == axis:
        return True
    if not axis.startswith(f"{key}."):
        return False
    try:
        value = parse_value(override.partition("=")[2])
    except yaml.YAMLError:  # refused with its reason when the cells are made
        return False
    for part in axis.removeprefix(f"{key}.").split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def check_cell_keys(overrides: Iterable[str], with_switches: bool) -> None:
    """Raise ValueError for a key that a study sets for each cell; ``with_switches``: also for a switch of semantics."""
    for override in overrides:
        key, shown = override_key(override), override.removesuffix("=")
        if key in CELL_KEYS:
            raise ValueError(f"'{shown}' would put all cells into one run folder; {CELL_KEYS[key]}")
        if with_switches and key.startswith("semantics."):
            raise ValueError(f"'{shown}': a switch of semantics; {CELL_KEYS['semantics']}")


class VariantConfig(Strict):
    """One variant: a composition of ``configs/objective/``, its semantics, and optionally settings and seeds."""

    objective: str
    name: str | None = Field(
        None, pattern=r"^\w[\w.-]*$", description="in folders and tables; null: that of the objective and the overrides"
    )
    overrides: tuple[str, ...] = Field((), description="key.sub=value, applied to the runs of this variant")
    semantics: VariantSemantics = VariantSemantics.of("corrected")
    seeds: Seeds | None = Field(None, min_length=1, description="null: the seeds of the study")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"objective": value} if isinstance(value, str) else value

    @field_validator("overrides")
    @classmethod
    def _keeps_cells_apart(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        check_cell_keys(overrides, with_switches=True)
        keys = [override_key(override) for override in overrides]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{twice[0]} is set twice")
        return overrides

    @field_serializer("semantics")
    def _as_written(self, semantics: VariantSemantics) -> str | dict[str, Any]:
        return semantics.written

    @property
    def stem(self) -> str:
        """The name without settings."""
        return self.name or Path(self.objective).stem

    @property
    def row(self) -> str:
        """The row of its runs in tables: with settings, and with its semantics unless they are the corrected ones."""
        name = self.stem
        if self.name is None and self.overrides:
            pairs = (override.partition("=") for override in self.overrides)
            try:
                name = settings_name(name, {key: parse_value(text) for key, _, text in pairs})
            except yaml.YAMLError:  # refused with its reason when the cells are made
                return name
        return row_label(name, semantics_name(self.semantics.preset, self.semantics.switches))


class RunPhase(Strict):
    """One phase of every variant: a run of its own, which may begin where the run of an earlier phase ended."""

    name: str = Field(pattern=r"^\w[\w-]*$", description="last part of the names of its folders")
    after: str | None = Field(None, description="phase whose last checkpoint it begins with; null: as the regime says")
    what: Literal["all", "weights"] = Field("all", description="what it takes from that checkpoint; see init.what")
    overrides: tuple[str, ...] = Field((), description="key.sub=value, applied to the runs of this phase")

    @field_validator("overrides")
    @classmethod
    def _keeps_cells_apart(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        check_cell_keys(overrides, with_switches=True)
        return overrides

    @model_validator(mode="after")
    def _one_beginning(self) -> "RunPhase":
        if self.after is not None:
            for override in self.overrides:
                if f"{override_key(override)}.".startswith("init."):
                    raise ValueError(
                        f"'{override}': a phase with after: begins where that one ended; remove one of them"
                    )
        elif self.what != "all":
            raise ValueError("what: belongs to after, which is not set")
        return self
