"""Imports of large packages without the garbage collector, which takes a third of their time."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected_imports() -> Iterator[None]:
    """Pause the garbage collector, and exempt what has been imported from all later collections.

    torch and DeepSpeed create a million objects that live as long as the process. A full collection visits them all:
    several times during the imports, and between training steps. If nothing is imported, nothing is exempt. At exit
    nothing is, so that process groups and their threads end as they do in any process.
    """
    enabled, imported = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > imported:
            gc.freeze()
            atexit.register(gc.unfreeze)
        if enabled:
            gc.enable()
