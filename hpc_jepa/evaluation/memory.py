"""Memory that was freed goes back to the system."""

import ctypes


def release_freed_memory() -> None:
    """Ask the C library for what it keeps.

    glibc reuses freed blocks with an alignment, as tensors have, badly (before 2.38 hardly): in a loop over large
    batches a process would grow without holding anything. Other C libraries keep nothing worth asking for.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
