"""The ``hpc-jepa`` command: argument parsing and printing only."""

import signal
import sys

from hpc_jepa.errors import EXIT_INTERRUPTED
from hpc_jepa.io.imports import uncollected_imports
from hpc_jepa.training.shutdown import STOP_SIGNALS, Interrupt, install_stop_handler


def main() -> None:
    """Entry point of the console script. Stop signals act like Ctrl-C from the start, before heavy imports.

    While it trains, ``hpc-jepa train`` replaces these handlers: it saves first.
    """
    interrupt = Interrupt()
    try:
        install_stop_handler(interrupt)
        with uncollected_imports():
            from hpc_jepa.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BaseException as error:
        failed = not isinstance(error, SystemExit) or error.code
        if interrupt.received and failed:  # a library has turned the KeyboardInterrupt into another error
            sys.exit(EXIT_INTERRUPTED)
        raise
    finally:
        # The command has ended: another signal should not print a traceback during interpreter shutdown.
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
