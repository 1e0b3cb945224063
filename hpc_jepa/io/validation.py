"""Validate JSON with a pydantic model, with one line that names the place, the key and the remedy."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hpc_jepa.errors import DataError

Model = TypeVar("Model", bound=BaseModel)


def parse_json(model: type[Model], content: bytes, place: str | Path, remedy: str) -> Model:
    """The validated content. Raises DataError with ``place``, the first wrong key and ``remedy``."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"{place}: damaged ({first_error(error)}); {remedy}") from error


def first_error(error: ValidationError) -> str:
    """The first error as ``key: message``."""
    details = error.errors()[0]
    if details["type"] == "json_invalid":
        return "not valid JSON"
    return f"{'.'.join(map(str, details['loc'])) or 'file'}: {details['msg']}"
