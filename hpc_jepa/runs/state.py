"""``state.json``: how far a run is, for ``study status``, reports and people."""

import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, NonNegativeInt

from hpc_jepa.config.strict import Strict
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.retry import read_if_exists
from hpc_jepa.io.validation import parse_json

RunStatus = Literal["running", "done", "interrupted", "failed"]

UNTIL = "--until"
"""``stopped_by`` of a run that was asked to stop there."""


def _unknown_as_none(step: Any) -> Any:
    return None if step == -1 else step


class RunState(Strict):
    """Content of ``state.json``; None means unknown.

    Files of release 0.1 still read: there -1 is an unknown step, and ``pid``, ``stopped_by`` and ``decode_errors`` are
    called ``process``, ``by`` and ``dropped``.
    """

    state: RunStatus
    step: Annotated[NonNegativeInt | None, BeforeValidator(_unknown_as_none)]
    """Optimizer steps done when the file was written."""
    steps: NonNegativeInt
    """Optimizer steps of the whole run."""
    time: float | None = None
    """Unix time of writing."""
    pid: int | None = Field(None, validation_alias=AliasChoices("pid", "process"))
    decode_errors: dict[str, int] = Field({}, validation_alias=AliasChoices("decode_errors", "dropped"))
    """Clips of rank 0 that could not be decoded, by source."""
    cpu_decoded: dict[str, int] = Field({})
    """Clips of rank 0 that the CPU decoded because the GPU cannot, by source; all 0 without a GPU decoder."""
    shared_clips: int | None = None
    """Clips of rank 0 that other runs of its node made, since the process started; None if none were shared."""
    passes: dict[str, float] = Field({})
    """How often the steps done read each source: clips of all processes over its size; with replacement on average."""
    stopped_by: str | None = Field(None, validation_alias=AliasChoices("stopped_by", "by"))
    """Signal that interrupted the run, ``wall time``, or UNTIL."""
    error: str | None = None

    @property
    def summary(self) -> str:
        """State, step and error in one line."""
        reached = f" at step {self.step:,} of {self.steps:,}" if self.step is not None else ""
        return f"{self.state}{reached}{f': {self.error}' if self.error else ''}"


def write_state(path: Path, state: RunState) -> None:
    """Replace the file, stamped with the time and the process id. Raises HpcJepaError if it cannot be written."""
    stamped = state.model_copy(update={"time": time.time(), "pid": os.getpid()})
    write_atomically(path, stamped.model_dump_json(indent=1).encode())


def read_state(path: Path) -> RunState | None:
    """The last written state, None if there is no file. Raises DataError if it is damaged."""
    content = read_if_exists(path)
    return None if content is None else parse_json(RunState, content, path, "delete it, 'hpc-jepa train' writes one")
