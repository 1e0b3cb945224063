"""Repeat file operations that fail for a moment, as they do on network file systems."""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

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
