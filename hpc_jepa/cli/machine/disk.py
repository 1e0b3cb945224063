"""Speed of a file system."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from hpc_jepa.cli.machine import CheckResult
from hpc_jepa.errors import InputError

TEST_BYTES = 64 * 2**20

SLOW = 100.0
"""MB/s; one fast GPU consumes several hundred clips of about 200 kB per second."""


def require_writable_folder(folder: Path) -> None:
    """Raise InputError if no file can be written there."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"--folder {folder}: {error.strerror}; choose a writable folder") from error


def file_system(folder: Path) -> CheckResult:
    """Write and read speed in MB/s, with the page cache dropped where the system allows it."""
    free = shutil.disk_usage(folder).free
    if free < 2 * TEST_BYTES:
        return CheckResult("file system", "missing", f"{folder.resolve()}: {free / 2**20:.0f} MiB free", "make room")
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        written, read = _speeds(file.fileno())
    found = f"{folder.resolve()}: writes {written:.0f}, reads {read:.0f} MB/s, {free / 2**30:.0f} GiB free"
    if min(written, read) < SLOW:
        return CheckResult("file system", "note", found, "slow for shards and checkpoints; use a scratch or local disk")
    return CheckResult("file system", "ok", found)


def _speeds(file: int) -> tuple[float, float]:
    """MB/s of writing and of reading."""
    block = os.urandom(2**20)
    started = time.perf_counter()
    for _ in range(TEST_BYTES // len(block)):
        os.write(file, block)
    os.fsync(file)
    written = time.perf_counter()
    os.posix_fadvise(file, 0, TEST_BYTES, os.POSIX_FADV_DONTNEED)
    os.lseek(file, 0, os.SEEK_SET)
    read_started = time.perf_counter()
    while os.read(file, len(block)):
        pass
    finished = time.perf_counter()
    return TEST_BYTES / 1e6 / (written - started), TEST_BYTES / 1e6 / (finished - read_started)
