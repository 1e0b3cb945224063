"""Signals set a flag; the loop looks at it between two steps."""

import signal
from types import FrameType, TracebackType

import torch

from hpc_jepa.distributed import GlooGroup

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopSignal:
    """While entered, INT, TERM, USR1 and USR2 ask the run to save and stop; a second INT ends it at once.

    Saving inside a handler would deadlock: a signal reaches one process, and a save needs all of them.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignal":
        self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def on_any_rank(self, host: GlooGroup, also: bool = False) -> bool:
        """Whether any process was asked to stop, or has another reason to; the same answer on all of them."""
        return any(host.gather(torch.tensor([also or self.signal is not None])).tolist())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
