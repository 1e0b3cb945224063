"""A study whose seeds are added look by look: its looks, and what confirms them."""

from typing import Annotated

from pydantic import Field, field_validator

from hpc_jepa.config.strict import Strict
from hpc_jepa.config.study_variants import Seeds


class SequentialConfig(Strict):
    """Looks at the results while seeds are added: a variant that is decided at a look gets no further seeds."""

    looks: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        min_length=1, description="seeds of a variant at each look, increasing, for example [2, 3, 5, 8]"
    )
    error: float = Field(
        0.05, gt=0, lt=0.5, description="probability of any false gain or loss in the whole study; of any false equal"
    )
    margin: float = Field(
        1.0, gt=0, le=100, description="points within which a variant counts as equal to the baseline"
    )
    futility: float = Field(
        0.06, ge=0, lt=1, description="stop a variant that has less chance than this of a gain or loss by the last look"
    )
    prefix: int | None = Field(
        None,
        gt=0,
        description="steps after which the looks compare; their runs are trained no further; needs confirmation",
    )
    decides: tuple[str, ...] = Field(
        (), description="benchmarks that decide, by their names in evaluations; empty: the first one of task probe"
    )

    @field_validator("looks")
    @classmethod
    def _increasing(cls, looks: tuple[int, ...]) -> tuple[int, ...]:
        if list(looks) != sorted(set(looks)):
            raise ValueError(f"{list(looks)} is not increasing; write the number of seeds at each look")
        return looks


class ConfirmationConfig(Strict):
    """Fresh seeds for the final comparison of the variants that the looks left."""

    seeds: Seeds = Field(min_length=2, description="seeds that no look uses")
