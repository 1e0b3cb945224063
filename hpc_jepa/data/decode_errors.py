"""Clips that did not decode: written down, counted, and tolerated up to a stated rate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hpc_jepa.errors import DataError
from hpc_jepa.io.atomic import write_atomically

MIN_CLIPS_FOR_RATE = 1000
"""Clips of a process over which the rate is judged at least, so that one bad clip early on does not stop a run."""

LOG_NAME = "dropped-{rank}.jsonl"


class DecodeErrorRecord(NamedTuple):
    """One sample that was replaced: a line of the ledger. position: row within the global batch."""

    step: int
    position: int
    source: str
    key: str
    file: str
    reason: str


def decode_error_log(folder: Path, rank: int) -> Path:
    """Where a process of a run writes its drops."""
    return folder / LOG_NAME.format(rank=rank)


def truncate_decode_errors(folder: Path, first: int) -> None:
    """Take the drops of steps from ``first`` on out of the ledgers of all processes: those steps will be run again.

    So does a last line cut short by a kill.
    """
    for ledger in sorted(folder.glob(LOG_NAME.format(rank="*"))):
        lines = ledger.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] < first]
        if kept != lines:
            write_atomically(ledger, b"".join(kept))


class DecodeErrorLog:
    """Counts the drops of this process per source and appends them to a file as JSON lines, once it is given one."""

    def __init__(self, sources: Sequence[str], allowed_rate: float) -> None:
        self.counts = dict.fromkeys(sources, 0)
        self._path: Path | None = None
        self._unwritten: list[DecodeErrorRecord] = []
        self._allowed_rate = allowed_rate
        self._clips = 0

    def open(self, path: Path) -> None:
        """Write drops to ``path`` from now on, and those that came before."""
        self._path = path
        self._write()

    def record(self, clips: int, drops: Sequence[DecodeErrorRecord]) -> None:
        """Note that ``clips`` were read and ``drops`` replaced.

        Raises DataError as soon as there are more drops than the allowed rate grants the clips read so far, or to the
        first ``MINIMUM_CLIPS``.
        """
        self._clips += clips
        for drop in drops:
            self.counts[drop.source] += 1
        self._unwritten += drops
        self._write()
        dropped = sum(self.counts.values())
        if dropped > self._allowed_rate * max(self._clips, MIN_CLIPS_FOR_RATE):
            worst = max(self.counts, key=self.counts.__getitem__)
            listed = f", listed in {self._path}" if self._path else ""
            raise DataError(
                f"{dropped} samples did not decode while {self._clips} clips were read, more than "
                f"data.undecodable_rate = {self._allowed_rate:g} allows; most are from {worst}{listed}"
            )

    def _write(self) -> None:
        if self._path is None or not self._unwritten:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(drop._asdict())}\n" for drop in self._unwritten))
        self._unwritten.clear()
