"""Clips that are made once for all runs of a node: what is shared, with whom, and how long to wait for another."""

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from math import ceil
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.data import DataConfig
from hpc_jepa.data.clip_ring import FOLDER, ClipFacts, ClipRing, remove_dead_rings
from hpc_jepa.data.dali_pipeline import import_dali
from hpc_jepa.io.free_memory import free_memory
from hpc_jepa.io.revision import source_hash

LOG = logging.getLogger(__name__)

GIB = 1 << 30
FORMAT = 1
MIN_STEPS = 2
"""Steps that a ring must hold: clips are made while the processes take those of the step before."""
MAX_STEPS = 32
"""Steps that a ring holds at most."""
PARTS = 4
"""Parts of a process's rows that it claims one after the other, so that others find some to make."""

MEMORY_SHARE = 2
"""Free memory that a ring needs, in its own size: the model takes its memory when clips are shared already."""

CODE = ("data", "io", "config/data.py")
"""The part of this package that decides the clips."""

UNRELATED = {"sources", "decoder", "decode_threads", "reading", "padding", "undecodable_rate"}
"""Settings of the data that do not decide the clips; hashes of the sources stand for their names."""

PATIENCE = 3.0
"""Times the slowest of its last parts that a process waits for a clip of another before it makes the clip."""
FIRST_PATIENCE, LEAST_PATIENCE, MOST_PATIENCE = 5.0, 0.05, 30.0
"""Seconds: before a process has made a part, and the limits afterwards."""
SHORTEST_PAUSE = 0.001
PAUSES = 30
"""Pauses in the time that a process waits at most, so that looking costs nothing on a busy machine."""

MakeClips = Callable[[list[int]], Mapping[int, ClipFacts | None]]
"""Makes the clips of some rows in place; what is known of each, None if the clip is not to be shared."""


def shared_clips(
    config: DataConfig, identity: Mapping[str, Any], *, batch_size: int, rows: range, chunk: int
) -> "SharedClips | None":
    """The clips shared with other runs of this node; None if ``data.reading.share`` is off, or they cannot be.

    identity: all that the clips depend on beside the configuration: seed, hashes of the data, decoder. ``rows``: those
    of this process among ``batch_size``; ``chunk``: the least number that it makes at a time.
    """
    if not FOLDER.is_dir():
        return None
    if config.reading.share == "off":
        remove_dead_rings()  # of runs that did share and were killed
        return None
    clip_bytes = 12 * config.clip.frames * config.clip.size**2
    slots = min(int(config.reading.share_limit * GIB) // clip_bytes, MAX_STEPS * batch_size)
    if slots < MIN_STEPS * batch_size:
        LOG.info(
            "clips are not shared with other runs: two steps need data.reading.share_limit: %.2f (GiB)",
            _gib(MIN_STEPS * batch_size * (clip_bytes + 1)),
        )
        return None
    try:
        ring = ClipRing(_name(config, identity, batch_size, slots), slots, clip_bytes)
    except OSError as error:
        LOG.warning("%s: cannot be used (%s); clips are not shared", error.filename or FOLDER, error.strerror)
        return None
    return SharedClips(ring, batch_size, rows, max(chunk, -(-len(rows) // PARTS)))


def _name(config: DataConfig, identity: Mapping[str, Any], batch_size: int, slots: int) -> str:
    """Hash of all that decides the clips of a step and the shape of the ring, and of the software that makes them."""
    settings = config.model_dump(mode="json", exclude=UNRELATED)
    weights = [source.weight for source in config.sources.values()]
    software = [
        version("hpc_jepa"),
        source_hash(*CODE),
        av.__version__,
        av.library_versions,
        np.__version__,
        str(import_dali().__version__),
    ]
    parts = [FORMAT, settings, weights, dict(identity), batch_size, slots, software]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _gib(size: int) -> float:
    """GiB, rounded up to two digits."""
    return ceil(100 * size / GIB) / 100


class SharedClips:
    """Takes clips from a ring or makes them for it. No process depends on another.

    A process shares while another one that wants the same rows is at most as many steps away as the ring holds;
    otherwise it makes its clips as if it were alone, which costs three system calls per step. Processes of one run have
    different rows and do not count. A clip is made by the process that claims it. A process that finds only claimed
    clips waits, at most PATIENCE times as long as it lately took itself, then makes them.

    taken: clips taken so far, None if none were shared.
    """

    def __init__(self, ring: ClipRing, batch_size: int, rows: range, chunk: int) -> None:
        self._ring = ring
        self._batch_size = batch_size
        self._rows = rows
        self._chunk = chunk
        self._durations: deque[float] = deque(maxlen=16)
        self._checked_space = False
        self._writes = True
        self.taken: int | None = None

    def begin(self, step: int) -> bool:
        """Whether the clips of a step are shared."""
        self._ring.announce(self._items(step))
        if not self._has_company(step):
            return False
        if not self._checked_space:
            self._checked_space = True
            self._check_space()
            self.taken = self.taken or 0
        return True

    def fill(self, step: int, clips: Sequence[NDArray[np.uint8]], make: MakeClips) -> dict[int, ClipFacts]:
        """Fill all rows ``clips`` [bytes] of this process: those taken from others, by row; ``make`` makes the rest."""
        first = self._items(step).start
        taken: dict[int, ClipFacts] = {}
        pending, waited = list(range(len(clips))), -1
        while pending:
            found, mine = self._take_or_claim(first, pending, clips)
            if not found and not mine:
                if pending[0] == waited or not self._wait(first + pending[0]):
                    mine = pending[: self._chunk]
                waited = pending[0]
            if mine:
                self._make(first, mine, clips, make)
            taken |= found
            pending = [row for row in pending if row not in found and row not in mine]
        self.taken = (self.taken or 0) + len(taken)
        return taken

    def close(self) -> None:
        """Leave the ring."""
        self._ring.close()

    def _items(self, step: int) -> range:
        first = step * self._batch_size
        return range(first + self._rows.start, first + self._rows.stop)

    def _has_company(self, step: int) -> bool:
        reach = self._ring.slots // self._batch_size - 1
        steps = range(max(step - reach, 0), step + reach + 1)
        if not self._ring.is_announced(range(steps.start * self._batch_size, steps.stop * self._batch_size)):
            return False
        return any(self._ring.is_announced(self._items(near)) for near in steps)

    def _check_space(self) -> None:
        """Stop writing before memory is full: others need it too, and this process will need more."""
        growth = self._ring.growth
        for place, free, needed in (
            (str(FOLDER), self._ring.free_space, growth),
            ("memory of this job or machine", free_memory(), MEMORY_SHARE * growth),
        ):
            if self._writes and free < needed:
                self._writes = False
                LOG.warning(
                    "%s: %.2f GiB are free of the %.2f GiB needed; this process gives no clips to other runs; "
                    "enlarge it, or lower data.reading.share_limit",
                    place,
                    max(free, 0) / GIB,
                    _gib(needed),
                )

    def _take_or_claim(
        self, first: int, pending: list[int], clips: Sequence[NDArray[np.uint8]]
    ) -> tuple[dict[int, ClipFacts], list[int]]:
        """Rows that another process has made, and those that this one has claimed, at most a part."""
        found: dict[int, ClipFacts] = {}
        mine: list[int] = []
        for row in pending:
            facts = self._ring.take(first + row, clips[row])
            if facts is None and len(mine) < self._chunk and self._may_make(first + row):
                facts = self._ring.take(first + row, clips[row])  # it may have been finished in between
                if facts is None:
                    mine.append(row)
                else:
                    self._ring.release(first + row)
            if facts is not None:
                found[row] = facts
        return found, mine

    def _wait(self, item: int) -> bool:
        """Wait until a clip is there, or nobody makes it any more; False if that takes too long."""
        patience, pause = self._patience, SHORTEST_PAUSE
        deadline = time.monotonic() + patience
        while not self._ring.has(item):
            if self._ring.claim(item):
                self._ring.release(item)
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, max(patience / PAUSES, SHORTEST_PAUSE))
        return True

    def _may_make(self, item: int) -> bool:
        """A process that does not write claims nothing: others would wait in vain."""
        return not self._writes or self._ring.claim(item)

    def _make(self, first: int, rows: list[int], clips: Sequence[NDArray[np.uint8]], make: MakeClips) -> None:
        started = time.monotonic()
        try:
            for row, facts in make(rows).items():
                if facts is not None and self._writes:
                    self._put(first + row, clips[row], facts)
        finally:
            for row in rows:
                self._ring.release(first + row)
        self._durations.append(time.monotonic() - started)

    def _put(self, item: int, clip: NDArray[np.uint8], facts: ClipFacts) -> None:
        try:
            self._ring.put(item, clip, facts)
        except OSError as error:
            self._writes = False
            LOG.warning("%s: %s; this process gives no more clips to other runs", FOLDER, error.strerror)

    @property
    def _patience(self) -> float:
        """Seconds; follows the load of the machine, as the last parts did."""
        if not self._durations:
            return FIRST_PATIENCE
        return min(max(PATIENCE * max(self._durations), LEAST_PATIENCE), MOST_PATIENCE)
