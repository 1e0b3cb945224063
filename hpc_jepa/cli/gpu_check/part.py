"""A part of the GPU check: its name and time limit, and how it reports."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Status = Literal["ok", "warning", "failed", "skipped"]
"""warning: works, with a limitation; skipped: something that the part needs is not installed or not present."""

Value = str | int | float | bool | None
Row = dict[str, Value]


class SkipPartError(Exception):
    """This part cannot run on this machine; the message is one line: what is absent."""


class Verdict(NamedTuple):
    """The result of a part in one line."""

    status: Status
    line: str


@dataclass(frozen=True)
class Part:
    """One part of the check.

    target: ``module:function`` of a function that takes a :class:`PartContext` and returns a :class:`Verdict`.
    limit: seconds after which its processes are killed. short: whether it belongs to the short form, which needs only
    the installed package; the other parts may use ``tests/`` and ``tools/`` of a checkout.
    """

    name: str
    title: str
    target: str
    limit: float
    short: bool = False


@dataclass(frozen=True)
class Mode:
    """How the check runs. rehearse: small and on the CPU; short: without the parts that need a checkout."""

    rehearse: bool = False
    short: bool = False


@dataclass(frozen=True)
class PartContext:
    """What a part gets: its mode, an empty folder for its files, and the file to which it reports."""

    mode: Mode
    folder: Path
    events: Path

    def row(self, table: str, **values: Value) -> None:
        """Report a row of a table. Rows of a part that crashes or is killed later are kept."""
        self._write({"table": table, "row": {name: _in_json(value) for name, value in values.items()}})

    def warn(self, text: str) -> None:
        """Report a limitation that does not fail the part."""
        self._write({"warning": text})

    def finish(self, verdict: Verdict) -> None:
        """Report the verdict; the last event of a part."""
        self._write({"status": verdict.status, "line": verdict.line})

    def _write(self, event: dict[str, Any]) -> None:
        with self.events.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


def _in_json(value: Value) -> Value:
    """NaN and infinities as text, for which JSON has no numbers."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def verdict_of(problems: list[str], warnings: int, fine: str) -> Verdict:
    """Failed with the first problem and the number of others; else ``fine``, as a warning if there were any."""
    if problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Verdict("failed", f"{problems[0]}{others}")
    return Verdict("warning" if warnings else "ok", fine)
