"""A step that never ends: say where every process stands, and end, so that the scheduler can start the run again."""

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType

from hpc_jepa.distributed import rank

STUCK = 1
"""Exit status of a process that was stuck."""

LAST_WORDS = 2.0
"""Seconds from the stacks to the end: a launcher ends the other processes with the first, and theirs are wanted too."""


class Watchdog:
    """While entered, expects ``alive`` every so many ``seconds``; 0 expects nothing.

    Each process watches itself: when one is stuck in a collective all are, and each prints its own stacks. A process
    that waits for others cannot be stopped by an exception, so it is ended.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._sign = threading.Event()
        self._ended = False
        self._watcher = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._sign.set()

    def alive(self) -> None:
        """Something was done."""
        self._sign.set()

    def _watch(self) -> None:
        while self._sign.wait(self._seconds):
            self._sign.clear()
            if self._ended:
                return
        _end(self._seconds)


def _end(seconds: float) -> None:
    sys.stderr.write(f"rank {rank()}: nothing was done for {seconds:g} s; the stacks of its threads:\n")
    sys.stderr.flush()
    faulthandler.dump_traceback(all_threads=True)
    time.sleep(LAST_WORDS)
    os._exit(STUCK)
