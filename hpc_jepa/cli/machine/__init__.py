"""Checks of ``hpc-jepa doctor``, one module per part of the machine."""

from dataclasses import dataclass
from typing import Literal

CheckStatus = Literal["ok", "note", "missing"]
"""note: works, with a limitation; missing: something a user may need is absent."""


@dataclass(frozen=True)
class CheckResult:
    """Name and status of a check, details, and advice unless ``ok``."""

    check: str
    status: CheckStatus
    detail: str
    advice: str = ""


def first_line(error: BaseException) -> str:
    """First line of an error message."""
    return str(error).strip().split("\n")[0]
