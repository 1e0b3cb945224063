"""Integrity of the files of a checkpoint: size and SHA-256 as recorded."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from hpc_jepa.checkpoint.rank_file import FileDigest
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.io.regular import open_regular
from hpc_jepa.io.retry import retry

MISSING = (FileNotFoundError, NotADirectoryError)
"""Errors of a file that is not there; any other error of the file system does not show that it is damaged."""


def file_errors(folder: Path, recorded: Mapping[str, FileDigest]) -> list[str]:
    """Errors of files in a folder, one line per file: missing, other size or checksum. ``recorded``: digests by name.

    Raises HpcJepaError if a file cannot be read.
    """
    with ThreadPoolExecutor() as pool:
        errors = pool.map(_file_error, (folder / name for name in recorded), recorded.values())
        return [error for error in errors if error]


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system into an HpcJepaError; a missing file is not one."""
    try:
        yield
    except MISSING:
        raise
    except OSError as error:
        raise HpcJepaError(
            f"{path}: cannot be read ({error.strerror}); it may be sound: check the file system, then try again"
        ) from error


def _file_error(path: Path, recorded: FileDigest) -> str | None:
    """What is wrong with a file, None if it has the recorded size and checksum. Raises HpcJepaError."""
    try:
        with read_errors(path):
            size, sha256 = retry(partial(_size_and_checksum, path, recorded.size))
    except MISSING:
        return f"{path}: missing"
    if size != recorded.size:
        return f"{path}: {size} bytes instead of {recorded.size}"
    return f"{path}: checksum differs" if sha256 != recorded.sha256 else None


def _size_and_checksum(path: Path, expected_size: int) -> tuple[int, str]:
    """Size and SHA-256 of a file; the checksum is empty if it has another size. Raises OSError."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        return size, hashlib.file_digest(file, "sha256").hexdigest() if size == expected_size else ""
