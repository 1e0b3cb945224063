"""End a stalled rank: print the stacks of all threads and exit, so that the scheduler can restart the job."""

import faulthandler
from types import TracebackType

STDERR = 2
"""File descriptor: notebooks and test runners replace ``sys.stderr`` by an object without one."""


class Watchdog:
    """While entered, the process exits with status 1 if ``reset`` is not called for ``seconds``; 0 disables it.

    The timer runs outside the interpreter, so it fires even if a call holds the GIL. Every rank has its own: when one
    rank stalls in a collective all do, and each prints its stacks. A rank that waits for others cannot be stopped by
    an exception, so it exits without cleaning up.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> "Watchdog":
        self.reset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()

    def reset(self) -> None:
        """Restart the timer: the rank has made progress."""
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=STDERR)
