"""Base classes of the configuration tree: typed, frozen, unknown keys forbidden."""

from collections.abc import Hashable
from functools import cache
from itertools import chain
from typing import Annotated, Any, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hpc_jepa.config.renamed_keys import rename_keys

KeyPath = tuple[str, ...]


class Locations(dict[KeyPath, str]):
    """Where each key was last set: ``file:line``, or ``override key=value``.

    All instances are equal: where a value was written is not part of the value.
    """

    def __init__(self, *entries: Any) -> None:
        super().__init__(*entries)
        self.files: list[str] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Locations)

    def find(self, path: KeyPath) -> str | None:
        """Location of ``path``, or of the nearest key above it that is set, or of the first one below it."""
        above = (self[path[:length]] for length in range(len(path), 0, -1) if path[:length] in self)
        below = (self[key] for key in self if key[: len(path)] == path)
        return next(chain(above, below), None)

    def prefix(self, path: KeyPath) -> str:
        """``"file:line: "`` for the start of an error message; the names of the files if no key of ``path`` is set."""
        location = self.find(path) or ", ".join(self.files)
        return f"{location}: " if location else ""


def _check_range(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1]:
        raise ValueError(f"{list(value)} is not a range of positive numbers")
    return value


PositiveRange = Annotated[tuple[float, float], AfterValidator(_check_range)]


class SettingError(ValueError):
    """An error of a validator about a key below the section that it validates: ``keys`` lead from there to it."""

    def __init__(self, keys: KeyPath, message: str) -> None:
        super().__init__(message)
        self.keys = keys


class Frozen(BaseModel):
    """Immutable; an unknown key is an error rather than a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Strict(Frozen):
    """One node of a configuration."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic would read ``true`` as 1."""
        if _has_bool(value) and not _accepts_bool(cast(Hashable, cls.model_fields[str(info.field_name)].annotation)):
            raise ValueError("true and false are not numbers or texts")
        return value


def _has_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, (list, tuple)) and any(map(_has_bool, value)))


@cache
def _accepts_bool(annotation: Hashable) -> bool:
    """Whether a type, or a part of it, accepts true and false."""
    if annotation in (bool, Any) or isinstance(annotation, bool):
        return True
    return any(_accepts_bool(part) for part in get_args(annotation) if not isinstance(part, list))


class RootConfig(Strict):
    """Root of a configuration tree: accepts renamed keys and records where each of its keys was set."""

    _locations: Locations = PrivateAttr(default_factory=Locations)

    @model_validator(mode="before")
    @classmethod
    def _accept_old_keys(cls, values: Any) -> Any:
        return rename_keys(values) if isinstance(values, dict) else values

    @property
    def locations(self) -> Locations:
        """File and line of each key; empty for a configuration that was not read from files."""
        return self._locations

    def set_locations(self, locations: Locations) -> None:
        """Record where the keys were set."""
        self._locations = locations
