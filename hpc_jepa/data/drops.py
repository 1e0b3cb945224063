"""Clips that did not decode: written down, counted, and tolerated up to a stated rate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hpc_jepa.errors import DataError

MINIMUM_CLIPS = 1000
"""Clips of a process over which the rate is judged at least, so that one bad clip early on does not stop a run."""


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
        """Note that ``clips`` were read and ``drops`` replaced.

        Raises DataError as soon as there are more drops than the allowed rate grants the clips read so far, or to the
        first ``MINIMUM_CLIPS``.
        """
        self._clips += clips
        for drop in drops:
            self.counts[drop.source] += 1
        if drops and self._path:
            self._append(self._path, drops)
        dropped = sum(self.counts.values())
        if dropped > self._allowed_rate * max(self._clips, MINIMUM_CLIPS):
            worst = max(self.counts, key=self.counts.__getitem__)
            listed = f", listed in {self._path}" if self._path else ""
            raise DataError(
                f"{dropped} samples did not decode while {self._clips} clips were read, more than "
                f"data.undecodable_rate = {self._allowed_rate:g} allows; most are from {worst}{listed}"
            )

    def _append(self, path: Path, drops: Sequence[Drop]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(drop._asdict())}\n" for drop in drops))
