"""glibc malloc settings: when large freed blocks are returned to the system.

Fragmentation: decoded batches are large malloc blocks interleaved with small aligned ones. Each time a large block is
freed, glibc raises its mmap threshold, up to 32 MiB; then large blocks share the heap, and before version 2.38 aligned
requests often do not fit the holes they leave. 100,000 clips cost several hundred MiB that way. With a fixed threshold
large blocks are mmapped and returned at once, for 5 % more processor time.

Training on a CPU needs the opposite: each step allocates the same gigabytes, and finding and clearing pages again takes
a seventh of the step of a ViT-B. A few hundred MiB of fragmentation do not matter there.

All functions do nothing where the C library has no such call.
"""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
MMAP_THRESHOLD_BYTES = 256 << 10
"""Blocks of at least this size are mmapped."""


@cache
def mmap_large_blocks() -> None:
    """Fix the mmap threshold, once per process that decodes clips."""
    _call("mallopt", M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


@cache
def keep_freed_memory() -> None:
    """Never return freed memory, once per process that trains on a CPU. Overrides ``mmap_large_blocks``."""
    _call("mallopt", M_MMAP_MAX, 0)
    _call("mallopt", M_TRIM_THRESHOLD, -1)


def release_freed_memory() -> None:
    """Return freed memory to the system now (``malloc_trim``), for loops over large aligned batches."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
