"""What was handed to a cluster: ``RUNS/<study>/jobs.jsonl``, a line for each job, and the cells that were refused."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import DataError
from hpc_jepa.io.atomic import write_atomically


class SubmittedJob(Strict):
    """A job, or element of an array, and the run folder it works on."""

    job: str
    kind: Literal["train", "evaluate", "report"]
    folder: Path
    cluster: str
    time: float

    @property
    def array(self) -> str:
        """The array it is an element of, or itself."""
        return self.job.partition("_")[0]


class JobLog:
    """The jobs of one study, oldest first."""

    def __init__(self, study: Path) -> None:
        self.path = study / "jobs.jsonl"
        self._refused = study / "refused.json"

    def jobs(self) -> list[SubmittedJob]:
        """Raises DataError naming the line that is damaged."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().splitlines()
        return [self._parse(number, line) for number, line in enumerate(lines, start=1)]

    def latest(self) -> dict[tuple[Path, str], SubmittedJob]:
        """The newest job of every run folder and kind."""
        return {(job.folder, job.kind): job for job in self.jobs()}

    def add(self, jobs: Sequence[SubmittedJob]) -> None:
        """At the end, all or none."""
        before = self.path.read_bytes() if self.path.exists() else b""
        write_atomically(self.path, before + "".join(f"{job.model_dump_json()}\n" for job in jobs).encode())

    def refused(self) -> dict[str, str]:
        """Run folders that the last submission refused, and why."""
        refused: dict[str, str] = json.loads(self._refused.read_bytes()) if self._refused.exists() else {}
        return refused

    def refuse(self, reasons: Mapping[Path, str]) -> None:
        """Replace what an earlier submission said."""
        if reasons or self._refused.exists():
            content = {str(folder): reason for folder, reason in reasons.items()}
            write_atomically(self._refused, json.dumps(content, indent=1).encode())

    def _parse(self, number: int, line: bytes) -> SubmittedJob:
        try:
            return SubmittedJob.model_validate_json(line)
        except ValidationError as error:
            raise DataError(
                f"{self.path}:{number}: damaged line; delete it, 'study submit' queues what is missing"
            ) from error


def array_ids(jobs: Iterable[SubmittedJob]) -> list[str]:
    """Job ids without the numbers of elements, each once."""
    return list(dict.fromkeys(job.array for job in jobs))
