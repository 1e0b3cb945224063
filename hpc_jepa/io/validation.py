"""Validate JSON with a pydantic model, with one line that names the place, the key and the remedy."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hpc_jepa.errors import DataError

Model = TypeVar("Model", bound=BaseModel)

LARGEST_INTEGER = 2**63 - 1
"""Limit of every integer in a file: larger ones fit into no array, no time and no file."""
MAY_BE_LARGER = re.compile(rb"[0-9]{19}|[0-9][eE]\+?[0-9]{2}")


def parse_json(model: type[Model], content: bytes, place: str | Path, remedy: str) -> Model:
    """The validated content. Raises DataError with ``place``, the first wrong key and ``remedy``."""
    try:
        parsed = model.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"{place}: damaged ({first_error(error)}); {remedy}") from error
    if MAY_BE_LARGER.search(content) and _has_huge_integer(parsed):
        raise DataError(f"{place}: damaged (an integer beyond 64 bits); {remedy}")
    return parsed


def first_error(error: ValidationError) -> str:
    """The first error as ``key: message``."""
    details = error.errors()[0]
    if details["type"] == "json_invalid":
        return "not valid JSON"
    key = ".".join(map(str, details["loc"])) or "file"
    return f"{key:.200}: {details['msg']:.500}"


def _has_huge_integer(value: Any) -> bool:
    if isinstance(value, BaseModel):
        return _has_huge_integer(dict(value))
    if isinstance(value, Mapping):
        return any(_has_huge_integer(key) or _has_huge_integer(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return any(map(_has_huge_integer, value))
    return isinstance(value, int) and not -LARGEST_INTEGER <= value <= LARGEST_INTEGER
