"""Clips that did not decode: written down, counted, and tolerated up to a stated rate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hpc_jepa.errors import DataError

MINIMUM_CLIPS = 1000
"""Clips a process reads before the rate is judged, so that one bad clip early on does not stop a run."""


class Drop(NamedTuple):
    """One sample that was replaced: a line of the ledger. position: row within the global batch."""

    step: int
    position: int
    source: str
    key: str
    file: str
    reason: str


class DropLedger:
    """Counts the drops of this process per source and appends them to ``path`` as JSON lines (no path, no file)."""

    def __init__(self, path: Path | None, sources: Sequence[str], allowed_rate: float) -> None:
        self.counts = dict.fromkeys(sources, 0)
        self._path = path
        self._allowed_rate = allowed_rate
        self._clips = 0

    def record(self, clips: int, drops: Sequence[Drop]) -> None:
        """Note that ``clips`` were read and ``drops`` replaced. Raises DataError past the allowed rate."""
        self._clips += clips
        for drop in drops:
            self.counts[drop.source] += 1
        if drops and self._path:
            self._append(self._path, drops)
        dropped = sum(self.counts.values())
        if self._clips >= MINIMUM_CLIPS and dropped > self._allowed_rate * self._clips:
            worst = max(self.counts, key=self.counts.__getitem__)
            raise DataError(
                f"{dropped} of {self._clips} clips did not decode, more than data.undecodable_rate = "
                f"{self._allowed_rate:g} allows; most are from {worst}, listed in {self._path or 'no ledger'}"
            )

    def _append(self, path: Path, drops: Sequence[Drop]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(drop._asdict())}\n" for drop in drops))
