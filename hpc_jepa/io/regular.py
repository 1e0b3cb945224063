"""Read files that somebody else may have written: regular files of limited size, never a pipe or a device."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

MAX_BYTES = 4 << 30
"""Limit of a file that is read as a whole: the metrics of a million steps have less than one gigabyte."""


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a file to read it. Raises OSError if it is not a regular file."""
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def read_regular(path: Path, last: int = -1) -> bytes:
    """The ``last`` bytes of a file, or all. Raises OSError if it is not a regular file, or larger than MAX_BYTES."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if last >= 0:
            file.seek(max(size - last, 0))
        elif size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{size:,} bytes, at most {MAX_BYTES:,} are read", str(path))
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    """Opener for ``open()``: a pipe without a writer would block it for ever."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
