"""``origin.json``: where a run began that did not begin from its seed alone."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt

from hpc_jepa.config.init import Part
from hpc_jepa.config.strict import Strict
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.retry import read_if_exists
from hpc_jepa.io.validation import parse_json

REMEDY = "restore it from a copy: it says at which clips the run began"


class RunOrigin(Strict):
    """Origin of a run: a checkpoint of another run, or a file.

    path: run folder or file, as configured. sha256: of the manifest of the checkpoint, or of the file. first_step: step
    count at which the run began. clip_offset: step of the clips and masks less the step of the run. drawn: tensors that
    the origin lacks, initialised from the seed. left_out: tensors of the origin that the run lacks. copied: the network
    that is a copy of the other one. before: ``lines`` of the run it branched from.
    """

    kind: Literal["run", "file"]
    path: str
    step: NonNegativeInt = 0
    what: Literal["all", "weights"] = "weights"
    parts: tuple[Part, ...] = ()
    sha256: str
    fingerprint: str | None = None
    first_step: NonNegativeInt = 0
    clip_offset: NonNegativeInt = 0
    drawn: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    copied: Literal["target", "student"] | None = None
    time: float | None = Field(None, ge=0)
    before: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line: origin, and what was taken from it."""
        if self.kind == "file":
            taken = ", ".join(self.parts)
            return f"{taken} of {self.path} (SHA-256 {self.sha256[:12]})"
        taken = "weights and optimizer" if self.what == "all" else "weights"
        return f"{taken} of {self.path} after step {self.step:,}"

    @property
    def lines(self) -> list[str]:
        """``summary`` of this origin and of those before it, newest first."""
        return [self.summary, *self.before]


def write_origin(path: Path, origin: RunOrigin) -> None:
    """Write the file. Raises HpcJepaError if it cannot be written."""
    write_atomically(path, origin.model_dump_json(indent=1).encode())


def read_origin(path: Path) -> RunOrigin | None:
    """The origin, None if the run began from its seed. Raises DataError if the file is damaged."""
    content = read_if_exists(path)
    return None if content is None else parse_json(RunOrigin, content, path, REMEDY)
