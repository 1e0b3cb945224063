"""Keeps the heap of a process that makes clips from growing without anything in it.

Batches are large blocks that come and go with aligned small ones between them. With every large block that is freed,
glibc raises the size from which it asks the system for a block of its own, up to 32 MiB. From then on large blocks
share the heap, and before version 2.38 aligned requests often do not fit the holes they leave: 100,000 clips cost
several hundred MiB. A fixed size keeps them apart and gives their memory back at once, for 5 % more processor time.
"""

import ctypes
from functools import cache

M_MMAP_THRESHOLD = -3
LARGE = 256 << 10
"""Bytes from which a block is not part of the heap."""


@cache
def keep_large_blocks_apart() -> None:
    """Once for a process; without effect where the C library has no such setting."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, LARGE)
