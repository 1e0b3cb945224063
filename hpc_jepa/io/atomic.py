"""Atomic file replacement, fsync, and exclusive locks on folders. Symbolic links are never written through."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.io.retry import retry

UNSUPPORTED_LOCK_ERRNOS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems that have no locks, or have them switched off."""


def no_follow(path: str, flags: int) -> int:
    """Opener for ``open()``: raises OSError if the file is a symbolic link, which could lead to another user's file."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link; remove the link", path) from error
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file and rename it, so that readers see the old or the new file, even after a power cut.

    Transient errors are retried. Raises HpcJepaError on failure; the old file is then unchanged and the temporary file
    removed.
    """
    try:
        retry(partial(_write_and_rename, path, content))
    except OSError as error:
        raise HpcJepaError(f"{path}: cannot be written ({error.strerror})") from error


def _write_and_rename(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.unlink(missing_ok=True)  # of a killed process
        with open(temporary, "xb", opener=no_follow) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        with suppress(OSError):  # the next write removes it
            temporary.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk; transient errors are retried."""
    retry(partial(_fsync, path))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(lock: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock the file ``lock``. The system releases the lock when the process ends, however it ends.

    Raises InputError with the process that holds the lock, unless ``wait``. Without effect on a file system that has no
    locks.
    """
    try:
        opened = open(lock, "a+", encoding="utf-8", opener=no_follow)  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(f"{lock}: cannot be opened ({error.strerror})") from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read() or "another process"
            raise InputError(f"{lock.parent}: {holder} is writing here; wait for it, or stop it first") from error
        except OSError as error:
            if error.errno not in UNSUPPORTED_LOCK_ERRNOS:
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
