"""Storage backends of shard folders: local files, URLs, and a scratch cache on a local disk."""

import fcntl
import hashlib
import logging
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, cast

import psutil

from hpc_jepa.errors import InputError
from hpc_jepa.io.atomic import no_follow
from hpc_jepa.io.regular import read_regular
from hpc_jepa.io.retry import retry

MAX_OPEN_FILES = 64
COPY_BLOCK = 4 << 20
PROTOCOLS = (
    "file",
    "memory",
    "http",
    "https",
    "s3",
    "s3a",
    "gs",
    "gcs",
    "az",
    "abfs",
    "abfss",
    "hf",
    "sftp",
    "webhdfs",
)
"""URL protocols that only read bytes. Some others of fsspec interpret what they read, or run commands."""
LOG = logging.getLogger(__name__)


class ShardStorage(Protocol):
    """Reads byte ranges of tars; thread-safe. Raises OSError on failure."""

    def read(self, tar: Path, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on; fewer at the end of the tar."""

    def close(self) -> None:
        """Close files and stop threads."""


def parse_location(location: Path | str) -> Path:
    """A Path, or a UPath for a URL of PROTOCOLS.

    Raises InputError for other and chained protocols, and if the packages for the URL are not installed.
    """
    protocol, is_url, _ = str(location).partition("://")
    if "::" in str(location):
        raise InputError(f"{location}: chained URLs (::) are not read; name the folder itself")
    if not is_url:
        return Path(location)
    if protocol not in PROTOCOLS:
        raise InputError(f"{location}: protocol '{protocol}' is not read; known: {', '.join(PROTOCOLS)}")
    try:
        from upath import UPath
    except ImportError as error:
        raise InputError(f"{location}: URLs need the extra 'remote'; run: pip install 'hpc_jepa[remote]'") from error
    try:
        return cast(Path, UPath(location))
    except (ImportError, ValueError) as error:
        raise InputError(f"{location}: cannot be read ({error})") from error


def read_file(path: Path) -> bytes:
    """A whole file of a shard folder, repeated after a transient error. Raises OSError, also for a pipe or a device."""
    return retry(partial(read_regular, path) if isinstance(path, Path) else path.read_bytes)


def open_storage(folder: Path) -> ShardStorage:
    """The storage backend for the tars of a folder."""
    return LocalStorage() if isinstance(folder, Path) else RemoteStorage()


class LocalStorage:
    """Local files, of which at most MAX_OPEN_FILES are open."""

    def __init__(self) -> None:
        self._open = lru_cache(maxsize=MAX_OPEN_FILES)(_OpenFile)

    def read(self, tar: Path, offset: int, size: int) -> bytes:
        """One positional read, repeated after a transient error; threads share the file descriptor."""
        return retry(partial(self._read, tar, offset, size))

    def _read(self, tar: Path, offset: int, size: int) -> bytes:
        file = self._open(tar)  # keeps the file open although another thread may evict it from the cache
        try:
            return os.pread(file.descriptor, size, offset)
        except OSError:
            self._open.cache_clear()  # the descriptor may be stale
            raise

    def close(self) -> None:
        """Close all files."""
        self._open.cache_clear()


class RemoteStorage:
    """Remote files, one ranged request per read; nothing stays open."""

    def read(self, tar: Any, offset: int, size: int) -> bytes:
        """Send one ranged request."""
        data: bytes = tar.fs.cat_file(tar.path, start=offset, end=offset + size)
        return data

    def close(self) -> None:
        """Nothing to do."""


class ScratchCache:
    """Copies tars to a local disk on first use and reads the copy once it is complete.

    The processes of one machine share ``folder`` and copy one tar at a time. If the copies would exceed ``limit``
    bytes, ``evict`` removes the oldest ones (a process that finds a copy renews it); without it the tar is not copied.
    A copy is named after the checksum of its tar; one from before the last boot is checked, as a power cut can tear it.
    """

    def __init__(self, folder: Path, limit: int, evict: bool) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"data.reading.scratch: {folder} cannot be created ({error.strerror})") from error
        self._folder = folder
        self._limit = limit
        self._evict = evict
        from hpc_jepa.devices import thread_pool  # imports torch, which building shards does not need

        self._copier = thread_pool(1, "scratch")
        self._copies: dict[Path, Future[Path | None]] = {}
        self._lock = Lock()

    def read(self, tar: Path, sha256: str, offset: int, size: int, origin: ShardStorage) -> bytes:
        """Part of a tar, read through ``origin`` until the copy is complete."""
        with self._lock:
            if tar not in self._copies:
                self._copies[tar] = self._copier.submit(self._copy, tar, sha256)
            future = self._copies[tar]
        copy = future.result() if future.done() else None
        if copy is None:
            return origin.read(tar, offset, size)
        try:
            # Opened for this read only, so that an evicted copy frees its disk space at once.
            with copy.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        except FileNotFoundError:
            with self._lock:
                self._copies.pop(tar, None)
            return origin.read(tar, offset, size)

    def close(self) -> None:
        """Finish the running copy; copies are kept for the next run."""
        self._copier.shutdown(wait=True, cancel_futures=True)

    def _copy(self, tar: Path, sha256: str) -> Path | None:
        """The path of the copy, or None if there is no space for it."""
        copy = self._folder / f"{sha256}.tar"
        try:
            size = tar.stat().st_size
            with self._exclusive():
                if copy.exists() and not _is_sound(copy, size):
                    LOG.warning("%s: torn copy of %s; copying it again", copy, tar)
                    copy.unlink()
                if not copy.exists() and not self._free_space(size):
                    return None
                if not copy.exists() and not _copy_file(tar, copy):
                    LOG.warning("%s: differs from its checksum in the manifest; reading the original", tar)
                    return None
                os.utime(copy)
        except OSError as error:
            LOG.warning("%s: cannot be copied to %s (%s); reading the original", tar, self._folder, error.strerror)
            return None
        return copy

    def _free_space(self, size: int) -> bool:
        """Whether ``size`` more bytes fit, after evicting old copies if allowed."""
        copies = sorted(self._folder.glob("*.tar"), key=lambda copy: copy.stat().st_mtime_ns)
        excess = sum(copy.stat().st_size for copy in copies) + size - self._limit
        if excess > 0 and not (self._evict and size <= self._limit):
            return False
        for copy in copies:
            if excess <= 0:
                break
            excess -= copy.stat().st_size
            copy.unlink()
        return True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Block until no other process of this machine holds the lock."""
        with open(self._folder / ".lock", "a", opener=no_follow) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _OpenFile:
    """A file descriptor that is closed when its last reader releases it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


def _copy_file(tar: Path, copy: Path) -> bool:
    """Copy to a temporary name and flush, then rename, so that a copy is complete; False if the checksum differs."""
    partial_copy = copy.with_name(f".{copy.name}.partial")
    digest = hashlib.sha256()
    try:
        partial_copy.unlink(missing_ok=True)
        with tar.open("rb") as source, open(partial_copy, "xb", opener=no_follow) as target:
            while block := source.read(COPY_BLOCK):
                target.write(block)
                digest.update(block)
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != copy.stem:
            return False
        partial_copy.rename(copy)
        return True
    finally:
        partial_copy.unlink(missing_ok=True)


def _is_sound(copy: Path, size: int) -> bool:
    """Whether a copy has the size of the tar and, if it is older than the last boot, its checksum."""
    status = copy.stat()
    if status.st_size != size:
        return False
    if status.st_ctime > psutil.boot_time():
        return True
    with copy.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == copy.stem
