"""Imports of large packages without the garbage collector, which takes a third of their time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected_imports() -> Iterator[None]:
    """Pause the garbage collector.

    What has been imported is not exempt from later collections (``gc.freeze``): processes with a process group were
    then aborted at exit, in about half of the runs of one test, and in none without.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
