"""The answer to one question about a machine."""

from dataclasses import dataclass
from typing import Literal

CheckStatus = Literal["ok", "note", "missing"]
"""note: it works, but something is to be known; missing: something a user may need is not there."""


@dataclass(frozen=True)
class CheckResult:
    """What was found, and what to do about it."""

    check: str
    verdict: CheckStatus
    found: str
    advice: str = ""


def first_line(error: BaseException) -> str:
    """What an error says, without its details."""
    return str(error).strip().split("\n")[0]
