"""How long a run takes from its start to its first step, and on what."""

import logging
import time

import psutil

LOG = logging.getLogger(__name__)


class StartupTimer:
    """Seconds of each phase since this process was started."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since = psutil.Process().create_time()

    def done(self, phase: str) -> None:
        """The phase that began when the one before was done is over."""
        now = time.time()
        self._seconds[phase] = now - self._since
        self._since = now

    def log(self) -> None:
        """One line for people."""
        parts = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self._seconds.items())
        LOG.info("first step after %.1f s: %s", sum(self._seconds.values()), parts)
