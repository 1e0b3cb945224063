"""Graceful shutdown: stop signals and the wall-time limit end a run at a step boundary, after a save.

Imports nothing heavy: the command line installs its own handlers for STOP_SIGNALS before it imports torch.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, schedulers' end and warning signals, a closed terminal."""

DEADLINE_VARIABLES = ("SLURM_JOB_END_TIME", "HPC_JEPA_JOB_END_TIME")
"""End of the job in seconds since 1970: set by recent Slurm, and by our batch scripts."""
SAFETY_FACTOR = 1.5
"""Allow the next step and save to take this many times as long as the slowest so far."""
SHUTDOWN_SECONDS = 10.0
"""Seconds to exit and to requeue the job."""


def install_stop_handler(handler: Callable[[int, FrameType | None], object]) -> dict[signal.Signals, object]:
    """Handle all STOP_SIGNALS, except SIGHUP if it is ignored (nohup); returns the previous handlers."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    handled = [number for number in STOP_SIGNALS if not (ignored and number == signal.SIGHUP)]
    return {number: signal.signal(number, handler) for number in handled}


class Interrupt:
    """Handler that acts like Ctrl-C and records the signal: a library may have caught the KeyboardInterrupt."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt."""
        self.received = True
        raise KeyboardInterrupt


class StopSignal:
    """While entered, a stop signal sets a flag that the loop reads between two steps; a second SIGINT ends at once.

    Raises KeyboardInterrupt on entry if a signal has come before, to a handler of type :class:`Interrupt`.

    A handler must not save: only one rank may have received the signal, and a save is collective.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignal":
        self._previous = install_stop_handler(self._set)
        if any(isinstance(handler, Interrupt) and handler.received for handler in self._previous.values()):
            raise KeyboardInterrupt
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class WallTime:
    """Tracks the slowest unit of work (a step, a command) and compares it with the time left in the job.

    ``deadline``: seconds since 1970, or None if the process has no time limit.
    """

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._slowest = 0.0

    @classmethod
    def from_environment(cls) -> "WallTime":
        """The time limit of the job this process belongs to."""
        ends = [os.environ[name] for name in DEADLINE_VARIABLES if os.environ.get(name, "").isdecimal()]
        return cls(float(ends[0]) if ends else None)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time one unit of work."""
        started = time.monotonic()
        yield
        self._slowest = max(self._slowest, time.monotonic() - started)

    def fits_another(self, then: float = 0.0) -> bool:
        """Whether another unit as slow as the slowest so far fits, plus ``then`` seconds to save it."""
        if self._deadline is None:
            return True
        return time.time() + SAFETY_FACTOR * (self._slowest + then) + SHUTDOWN_SECONDS < self._deadline
