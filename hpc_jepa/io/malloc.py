"""What the C library does with large blocks that are freed: give them back at once, or keep them for the next step.

In a process that only makes clips the heap must not grow without anything in it. Batches are large blocks that come and
go with aligned small ones between them. With every large block that is freed, glibc raises the size from which it asks
the system for a block of its own, up to 32 MiB. From then on large blocks share the heap, and before version 2.38
aligned requests often do not fit the holes they leave: 100,000 clips cost several hundred MiB. A fixed size keeps them
apart and gives their memory back at once, for 5 % more processor time.

A step of training on a CPU asks for the same gigabytes again and again, and for memory that was given back the system
has to find and clear pages: a seventh of the step of a ViT-B. There some hundred MiB do not count.
"""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
MMAP_THRESHOLD_BYTES = 256 << 10
"""Bytes from which a block is not part of the heap."""


@cache
def mmap_large_blocks() -> None:
    """Once for a process that makes clips; without effect where the C library has no such setting."""
    _mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


@cache
def keep_freed_memory() -> None:
    """Once for a process that trains on a CPU; it goes before :func:`mmap_large_blocks`."""
    _mallopt(M_MMAP_MAX, 0)
    _mallopt(M_TRIM_THRESHOLD, -1)


def _mallopt(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)
