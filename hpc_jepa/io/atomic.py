"""Files that appear whole or not at all, and folders that one process writes at a time."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc_jepa.errors import HpcJepaError, InputError

UNSUPPORTED_LOCK_ERRNOS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems answer that have no locks, or have them switched off."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside and rename, so that a reader sees the old or the new file, even after a power cut.

    Raises HpcJepaError where that fails; then the old file stays, and nothing beside it.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError as error:
        raise HpcJepaError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(lock: Path) -> Iterator[None]:
    """Hold the file ``lock``. The system lets go of it when the process ends, however it ends.

    Raises InputError, naming the process that holds it, while another one does. A file system without locks refuses
    nobody.
    """
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
