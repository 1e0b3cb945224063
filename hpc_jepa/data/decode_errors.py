"""Decode errors during training: skipped samples are counted, logged, and tolerated up to a configured rate.

Clips that PyAV decodes although a GPU decoder is in use are counted too, and named once.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import DataError
from hpc_jepa.io.jsonl import append_jsonl, keep_records
from hpc_jepa.runs.run_dir import RunDir

LOG = logging.getLogger(__name__)

MIN_CLIPS_FOR_RATE = 1000
"""The rate is computed over at least this many clips of a process, so that an early error does not stop a run."""


class DecodeErrorRecord(Strict):
    """One sample that was replaced, or that DALI could not decode: a line of a log.

    position: row within the global batch.
    """

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
    for pattern in (run.decode_errors_file("*"), run.gpu_failures_file("*")):
        for path in sorted(run.log_dir.glob(pattern.name)):
            keep_records(path, DecodeErrorRecord, lambda record: record.step < first, f"remove {path}")


class RecordLog:
    """A JSON Lines file of records; those before it is open are written when it opens."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._unwritten: list[DecodeErrorRecord] = []

    def open(self, path: Path) -> None:
        """Write to ``path`` from now on, earlier records included."""
        self.path = path
        self.write([])

    def write(self, records: Sequence[DecodeErrorRecord]) -> None:
        """Append records."""
        self._unwritten += records
        if self.path is not None and self._unwritten:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_jsonl(self.path, *self._unwritten)
            self._unwritten.clear()


class DecodeErrorLog:
    """Counts the decode errors of this process per source and appends them to a JSON Lines file once one is open."""

    def __init__(self, sources: Sequence[str], allowed_rate: float) -> None:
        self.counts = dict.fromkeys(sources, 0)
        self._file = RecordLog()
        self._allowed_rate = allowed_rate
        self._clips = 0

    def open(self, path: Path) -> None:
        """Write to ``path`` from now on, earlier records included."""
        self._file.open(path)

    def record(self, clips: int, errors: Sequence[DecodeErrorRecord]) -> None:
        """Count ``clips`` read and ``errors`` among them.

        Raises DataError when the errors exceed the allowed rate of the clips read so far, or of MIN_CLIPS_FOR_RATE.
        """
        self._clips += clips
        for error in errors:
            self.counts[error.source] += 1
        self._file.write(errors)
        total = sum(self.counts.values())
        if total > self._allowed_rate * max(self._clips, MIN_CLIPS_FOR_RATE):
            worst = max(self.counts, key=self.counts.__getitem__)
            listed = f", listed in {self._file.path}" if self._file.path else ""
            raise DataError(
                f"{total} of {self._clips} samples did not decode, more than data.undecodable_rate = "
                f"{self._allowed_rate:g} allows; most are from {worst}{listed}"
            )


class CpuDecodeLog:
    """Counts per source the clips that PyAV decodes although DALI decodes others.

    Each reason is logged once, with one sample as an example. Samples that DALI was given and could not decode are
    written to a JSON Lines file, each once.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self.counts = dict.fromkeys(sources, 0)
        self._file = RecordLog()
        self._reasons: set[str] = set()

    def open(self, path: Path) -> None:
        """Write failures of DALI to ``path`` from now on, earlier ones included."""
        self._file.open(path)

    def count(self, source: str, key: str, file: str, reason: str) -> None:
        """Count a clip that PyAV decoded for ``reason``."""
        self.counts[source] += 1
        if reason not in self._reasons:
            self._reasons.add(reason)
            LOG.warning("decoded on the CPU: %s (first: %s in %s)", reason, key, file)

    def record_failures(self, failures: Sequence[DecodeErrorRecord]) -> None:
        """Name samples that DALI could not decode."""
        self._file.write(failures)
