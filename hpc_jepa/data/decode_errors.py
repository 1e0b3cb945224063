"""Decode errors during training: skipped samples are counted, logged, and tolerated up to a configured rate."""

from collections.abc import Sequence
from pathlib import Path

from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import DataError
from hpc_jepa.io.jsonl import append_jsonl, keep_records
from hpc_jepa.runs.run_dir import RunDir

MIN_CLIPS_FOR_RATE = 1000
"""The rate is computed over at least this many clips of a process, so that an early error does not stop a run."""


class DecodeErrorRecord(Strict):
    """One sample that was replaced: a line of the log. position: row within the global batch."""

    step: int
    position: int
    source: str
    key: str
    file: str
    reason: str


def truncate_decode_errors(run: RunDir, first: int) -> None:
    """Remove the records of steps from ``first`` on, which will run again, and torn last lines, for all processes.

    Raises DataError for a damaged log.
    """
    for path in sorted(run.log_dir.glob(run.decode_errors_file("*").name)):
        keep_records(path, DecodeErrorRecord, lambda record: record.step < first, f"remove {path}")


class DecodeErrorLog:
    """Counts the decode errors of this process per source and appends them to a JSON Lines file once one is open."""

    def __init__(self, sources: Sequence[str], allowed_rate: float) -> None:
        self.counts = dict.fromkeys(sources, 0)
        self._path: Path | None = None
        self._unwritten: list[DecodeErrorRecord] = []
        self._allowed_rate = allowed_rate
        self._clips = 0

    def open(self, path: Path) -> None:
        """Write to ``path`` from now on, earlier records included."""
        self._path = path
        self._write()

    def record(self, clips: int, errors: Sequence[DecodeErrorRecord]) -> None:
        """Count ``clips`` read and ``errors`` among them.

        Raises DataError when the errors exceed the allowed rate of the clips read so far, or of MIN_CLIPS_FOR_RATE.
        """
        self._clips += clips
        for error in errors:
            self.counts[error.source] += 1
        self._unwritten += errors
        self._write()
        total = sum(self.counts.values())
        if total > self._allowed_rate * max(self._clips, MIN_CLIPS_FOR_RATE):
            worst = max(self.counts, key=self.counts.__getitem__)
            listed = f", listed in {self._path}" if self._path else ""
            raise DataError(
                f"{total} of {self._clips} samples did not decode, more than data.undecodable_rate = "
                f"{self._allowed_rate:g} allows; most are from {worst}{listed}"
            )

    def _write(self) -> None:
        if self._path is not None and self._unwritten:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_jsonl(self._path, *self._unwritten)
            self._unwritten.clear()
