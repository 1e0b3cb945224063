"""Repeat file operations that fail for a moment, as they do on network file systems."""

import errno
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from hpc_jepa.errors import DataError
from hpc_jepa.io.regular import read_regular

Result = TypeVar("Result")
LOG = logging.getLogger(__name__)

TRANSIENT_ERRNOS = frozenset(
    (
        errno.ESTALE,
        errno.EIO,
        errno.EAGAIN,
        errno.EINTR,
        errno.EBUSY,
        errno.ETIMEDOUT,
        errno.EREMOTEIO,
        errno.ECONNRESET,
    )
)
"""Errors after which the same operation may succeed: a server that restarts, a handle that has become stale."""
RETRY_DELAYS = (0.1, 0.5, 2.0)
"""Seconds before each further attempt."""


def retry(operation: Callable[[], Result]) -> Result:
    """The result of ``operation``, which is repeated while it fails with a transient OSError.

    Raises the last OSError when all attempts have failed, and any other error at once.
    """
    for delay in RETRY_DELAYS:
        try:
            return operation()
        except OSError as error:
            if error.errno not in TRANSIENT_ERRNOS:
                raise
            LOG.warning("%s: %s; trying again", error.filename or "file", error.strerror)
            time.sleep(delay)
    return operation()


def read_bytes(path: Path) -> bytes:
    """Content of a file. Raises DataError if it stays unreadable; the message does not call it damaged."""
    try:
        return retry(partial(read_regular, path))
    except OSError as error:
        raise _read_error(path, error) from error


def read_if_exists(path: Path, size: int = -1) -> bytes | None:
    """The last ``size`` bytes of a file, or all; None if there is none. Raises DataError like :func:`read_bytes`."""
    try:
        return retry(partial(read_regular, path, size))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _read_error(path, error) from error


def list_if_exists(folder: Path) -> list[str]:
    """Names in a folder, empty if there is none. Raises DataError if it stays unreadable: it may have content."""
    try:
        return retry(partial(os.listdir, folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _read_error(folder, error) from error


def _read_error(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); check the file system, then try again")
