"""The ``hpc-jepa`` command: argument parsing and printing only."""

import signal
import sys
from types import FrameType

from hpc_jepa.errors import EXIT_INTERRUPTED


def main() -> None:
    """Entry point of the console script: a signal stops a command as Ctrl-C does, from its first moment on."""
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, _interrupt)
        from hpc_jepa.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    finally:
        # What is left to do is to leave; a traceback out of that would frighten for nothing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
