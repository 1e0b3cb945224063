"""The speed of a file system."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from hpc_jepa.cli.machine.check_result import CheckResult
from hpc_jepa.errors import InputError

TRIAL = 64 * 2**20
"""Bytes written and read."""

SLOW = 100.0
"""MB/s; a fast GPU reads several hundred clips of some 200 kB a second."""


def refuse_unwritable(folder: Path) -> None:
    """Raise InputError where no file can be written."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"--folder {folder}: {error.strerror}; name a folder where files can be written") from error


def file_system(folder: Path) -> CheckResult:
    """MB/s of writing a file to disk and of reading it back, past the page cache where the system agrees to drop it."""
    free = shutil.disk_usage(folder).free
    if free < 2 * TRIAL:
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
    for _ in range(TRIAL // len(block)):
        os.write(file, block)
    os.fsync(file)
    written = time.perf_counter()
    os.posix_fadvise(file, 0, TRIAL, os.POSIX_FADV_DONTNEED)
    os.lseek(file, 0, os.SEEK_SET)
    begun = time.perf_counter()
    while os.read(file, len(block)):
        pass
    finished = time.perf_counter()
    return TRIAL / 1e6 / (written - started), TRIAL / 1e6 / (finished - begun)
