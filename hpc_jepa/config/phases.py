"""Schedules as lists of phases: constant, linear or cosine, placed in steps or in shares of the run."""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from hpc_jepa.config.strict import SettingError, Strict

SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%")
NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?")
MAX_STEP = 10**12


QUANTITIES = {
    "lr": ("warmup", "lr_start", "lr", "lr_final"),
    "weight_decay": ("weight_decay", "weight_decay_final"),
    "ema": ("ema_start", "ema_final"),
    "context_weight": ("context_weight",),
}
"""Lists of ``schedule.phases``, and the keys of ``schedule`` that each replaces."""


class Ramp(NamedTuple):
    """A phase at its place: from ``initial`` at step ``start`` to ``final`` at step ``end``, which then holds.

    A share of the run need not be a whole step.
    """

    start: float
    end: float
    initial: float
    final: float
    cosine: bool = False

    def at(self, step: int) -> float:
        """The value at a step."""
        if step >= self.end:
            return self.final
        progress = max((step - self.start) / (self.end - self.start), 0.0)
        if self.cosine:
            return self.final + (self.initial - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
        return self.initial + progress * (self.final - self.initial)


def value_at(ramps: Sequence[Ramp], step: int) -> float:
    """The value of a schedule: between two ramps the end of the first one holds, before the first one its start."""
    current = ramps[0]
    for ramp in ramps[1:]:
        if step >= ramp.start:
            current = ramp
    return current.at(step)


def _check_position(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STEP:
        return value
    if isinstance(value, str) and (match := SHARE.fullmatch(value)) and float(match[1]) <= 100:
        return value
    raise ValueError(f"{value!r:.40} is neither a step (450) nor a share of the run (50%)")


Position = Annotated[int | str, BeforeValidator(_check_position)]
"""A step, or a share of the run as a text: ``50%``."""


class Phase(Strict):
    """One part of a schedule; after it its last value holds."""

    shape: Literal["constant", "linear", "cosine"] = "linear"
    value: float | None = Field(None, ge=0, description="of a constant phase")
    initial: float | None = Field(
        None, ge=0, description="value at the start; null: the last value of the phase before"
    )
    final: float | None = Field(None, ge=0, description="value at the end")
    start: Position | None = Field(
        None, description="step, or share of the run (50%); null: the end of the phase before"
    )
    end: Position | None = Field(
        None, description="step, or share of the run; null: the start of the next phase, or the end of the run"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        """``4.0e-5`` and ``{value: 4.0e-5}`` are constant phases."""
        if isinstance(data, int | float | str) and not isinstance(data, bool):
            return {"shape": "constant", "value": data}
        if isinstance(data, dict) and data.get("value") is not None and "shape" not in data:
            return {"shape": "constant", **data}
        return data

    @model_validator(mode="after")
    def _values_of_the_shape(self) -> "Phase":
        if self.shape == "constant":
            if self.value is None or self.initial is not None or self.final is not None:
                raise ValueError("a constant phase has a value, and neither initial nor final")
        elif self.final is None or self.value is not None:
            raise ValueError(f"a {self.shape} phase has a final value, and initial unless the phase before gives it")
        return self


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict | int | float | str) and not isinstance(value, bool) else value


Phases = Annotated[tuple[Phase, ...], BeforeValidator(_as_list), Field(min_length=1)]
RampName = Literal["published", "corrected"]
RAMP_NAMES: tuple[RampName, ...] = get_args(RampName)


def _tag(value: Any) -> str:
    """A text is a name, unless it is a number that YAML reads as a text: ``1e-1``."""
    return "name" if isinstance(value, str) and not NUMBER.fullmatch(value) else "list"


class SchedulePhases(Strict):
    """Lists of phases. A list replaces the keys of ``schedule`` for the same quantity; null: these keys."""

    lr: Phases | None = None
    weight_decay: Phases | None = None
    ema: Phases | None = None
    context_weight: (
        Annotated[Annotated[RampName, Tag("name")] | Annotated[Phases, Tag("list")], Discriminator(_tag)] | None
    ) = Field(None, description="null: the ramp that semantics.context_ramp names")

    @model_validator(mode="after")
    def _momentum_is_a_share(self) -> "SchedulePhases":
        for index, phase in enumerate(self.ema or ()):
            for key in ("value", "initial", "final"):
                if (getattr(phase, key) or 0) > 1:
                    raise SettingError(("ema", str(index), key), "the momentum of the EMA is at most 1")
        return self


def named_ramp(name: RampName, weight: float, steps: int) -> tuple[Ramp, ...]:
    """The context weight as published, at steps 15,000 to 30,000 of any run, or corrected, in the second half."""
    if name == "published":
        return (Ramp(15_000, 30_000, 0.0, weight),)
    return (Ramp(0.5 * steps, 1.0 * steps, 0.0, weight),)


def place(phases: Sequence[Phase], steps: int, at: tuple[str, ...]) -> tuple[Ramp, ...]:
    """The phases of a run of ``steps`` steps, one after the other.

    at: keys of the list, for errors. Raises SettingError if a phase overlaps the one before, ends before it begins, or
    lacks a value or a place that its neighbours do not give. In a run without steps no phase has a length.
    """
    ramps: list[Ramp] = []
    for index, phase in enumerate(phases):
        here = (*at, str(index))
        before = ramps[-1] if ramps else None
        start = _start(phase, before, steps)
        end = _end(phases, index, start, steps, here)
        if steps and (end < start or (end == start and phase.shape != "constant")):
            raise SettingError((*here, "end"), f"the phase ends at step {end:g}, but begins at step {start:g}")
        if steps and before is not None and start < before.end:
            raise SettingError(
                (*here, "start"),
                f"the phase begins at step {start:g}, but the one before ends at step {before.end:g}; they overlap",
            )
        ramps.append(Ramp(start, end, *_values(phase, before, here), cosine=phase.shape == "cosine"))
    return tuple(ramps)


def _start(phase: Phase, before: Ramp | None, steps: int) -> float:
    if phase.start is not None:
        return _step(phase.start, steps)
    return before.end if before else 0


def _end(phases: Sequence[Phase], index: int, start: float, steps: int, here: tuple[str, ...]) -> float:
    phase = phases[index]
    if phase.end is not None:
        return _step(phase.end, steps)
    if index + 1 == len(phases):
        return max(steps, start) if phase.shape == "constant" else steps
    following = phases[index + 1].start
    if following is None:
        raise SettingError((*here, "end"), "set it, or start of the next phase")
    return _step(following, steps)


def _values(phase: Phase, before: Ramp | None, here: tuple[str, ...]) -> tuple[float, float]:
    if phase.value is not None:
        return phase.value, phase.value
    initial = phase.initial if phase.initial is not None else before.final if before else None
    if initial is None or phase.final is None:
        raise SettingError((*here, "initial"), "required: there is no phase before that gives it")
    return initial, phase.final


def _step(position: int | str, steps: int) -> float:
    """The step at a position: whole, or exact for a share."""
    if isinstance(position, int):
        return position
    exact = Fraction(position.removesuffix("%")) * steps / 100
    return exact.numerator if exact.denominator == 1 else float(exact)
