"""How much time a job has left, and whether another piece of work fits into it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

DEADLINE_VARIABLES = ("SLURM_JOB_END_TIME", "HPC_JEPA_JOB_END_TIME")
"""Environment variables with the end of the job in seconds since 1970: of newer Slurm, and of our batch scripts."""

SAFETY_FACTOR = 1.5
"""What comes may take so many times as long as the longest of its kind so far."""
SHUTDOWN_SECONDS = 10.0
"""Seconds to end the processes and to put the job into the queue again."""


class WallTime:
    """Remembers the longest piece of work so far and compares it with the time left.

    ``deadline``: seconds since 1970, or None where nothing ends the process.
    """

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._longest = 0.0

    @classmethod
    def from_environment(cls) -> "WallTime":
        """Until the end of the job this process belongs to."""
        ends = [os.environ[name] for name in DEADLINE_VARIABLES if os.environ.get(name, "").isdecimal()]
        return cls(float(ends[0]) if ends else None)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """A piece of work."""
        started = time.monotonic()
        yield
        self._longest = max(self._longest, time.monotonic() - started)

    def fits_another(self, then: float = 0.0) -> bool:
        """Whether there is time for a piece of work as long as the longest so far, and ``then`` seconds to save it."""
        if self._deadline is None:
            return True
        return time.time() + SAFETY_FACTOR * (self._longest + then) + SHUTDOWN_SECONDS < self._deadline
