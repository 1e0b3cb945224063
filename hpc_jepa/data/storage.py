"""Storage backends of shard folders: local files, URLs, and a scratch cache on a local disk."""

import fcntl
import hashlib
import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol, cast

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
RETRY_SECONDS = 60.0
NextUses = Callable[[], Mapping[str, float]]
"""By checksum of a tar: the step that needs it next. Tars that are not named are needed last."""


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
    With ``next_uses``, when which tars are needed next, by checksum, it removes those that are needed last (Belady
    1966), and none that is needed before the tar itself: that one is tried again after RETRY_SECONDS.
    A copy is named after the checksum of its tar; one from before the last boot is checked, as a power cut can tear it.
    """

    def __init__(self, folder: Path, limit: int, evict: bool, next_uses: NextUses | None = None) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"data.reading.scratch: {folder} cannot be created ({error.strerror})") from error
        self._folder = folder
        self._limit = limit
        self._evict = evict
        self._next_uses = next_uses
        self._refused: dict[Path, float] = {}
        self._copier: ThreadPoolExecutor | None = None
        self._copies: dict[Path, Future[Path | None]] = {}
        self._lock = Lock()

    def read(self, tar: Path, sha256: str, offset: int, size: int, origin: ShardStorage) -> bytes:
        """Part of a tar, read through ``origin`` until the copy is complete."""
        with self._lock:
            if tar not in self._copies:
                self._copies[tar] = self._threads().submit(self._copy, tar, sha256)
            future = self._copies[tar]
        copy = future.result() if future.done() else None
        if copy is None:
            if future.done() and self._next_uses is not None:
                self._retry_later(tar)
            return origin.read(tar, offset, size)
        try:
            # Opened for this read only, so that an evicted copy frees its disk space at once.
            with copy.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        except FileNotFoundError:
            with self._lock:
                self._copies.pop(tar, None)
            return origin.read(tar, offset, size)

    def stage(self, tar: Path, sha256: str) -> bool:
        """Copy a tar now if there is no copy and it fits; whether there is one. Raises OSError if it cannot be read."""
        return self._copy_or_find(tar, sha256) is not None

    def close(self) -> None:
        """Finish the running copy; copies are kept for the next run."""
        if self._copier is not None:
            self._copier.shutdown(wait=True, cancel_futures=True)

    def _threads(self) -> ThreadPoolExecutor:
        """The thread that copies, begun when it is needed."""
        if self._copier is None:
            from hpc_jepa.devices import thread_pool  # imports torch, which building and staging do not need

            self._copier = thread_pool(1, "scratch")
        return self._copier

    def _retry_later(self, tar: Path) -> None:
        """Let a tar that did not fit be copied after a while: others are not needed any more then."""
        now = time.monotonic()
        with self._lock:
            if now - self._refused.setdefault(tar, now) >= RETRY_SECONDS:
                self._copies.pop(tar, None)
                self._refused.pop(tar)

    def _copy(self, tar: Path, sha256: str) -> Path | None:
        """The path of the copy, or None if there is no space for it or it cannot be made."""
        try:
            return self._copy_or_find(tar, sha256)
        except OSError as error:
            LOG.warning("%s: cannot be copied to %s (%s); reading the original", tar, self._folder, error.strerror)
            return None

    def _copy_or_find(self, tar: Path, sha256: str) -> Path | None:
        copy = self._folder / f"{sha256}.tar"
        size = tar.stat().st_size
        with self._exclusive():
            for left in self._folder.glob(".*.partial"):  # of killed processes: whoever copies holds the lock
                left.unlink(missing_ok=True)
            if copy.exists() and not _is_sound(copy, size):
                LOG.warning("%s: torn copy of %s; copying it again", copy, tar)
                copy.unlink()
            if not copy.exists() and not self._free_space(size, sha256):
                return None
            if not copy.exists() and not _copy_file(tar, copy):
                LOG.warning("%s: differs from its checksum in the manifest; reading the original", tar)
                return None
            os.utime(copy)
        return copy

    def _free_space(self, size: int, sha256: str) -> bool:
        """Whether ``size`` more bytes fit, after evicting other copies if allowed."""
        files = [(path, path.stat()) for path in self._folder.glob("*.tar")]
        uses = self._next_uses() if self._next_uses else {}
        copies = [
            StoredCopy(path, status.st_size, uses.get(path.stem, math.inf), status.st_mtime_ns)
            for path, status in files
        ]
        excess = sum(copy.size for copy in copies) + size - self._limit
        if excess <= 0:
            return True
        needed = uses.get(sha256, math.inf) if self._next_uses else -math.inf
        evicted = choose_evicted(copies, excess, needed) if self._evict and size <= self._limit else None
        for copy in evicted or ():
            copy.path.unlink()
        return evicted is not None

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Block until no other process of this machine holds the lock."""
        with open(self._folder / ".lock", "a", opener=no_follow) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class StoredCopy(NamedTuple):
    """A copy of a tar: its bytes, the step that needs it next (infinite: none that is known), and when it was used."""

    path: Path
    size: int
    needed: float
    used: int


def choose_evicted(copies: Sequence[StoredCopy], excess: int, needed: float) -> list[StoredCopy] | None:
    """The copies to remove for ``excess`` bytes: those needed last, of equal ones the oldest.

    None if those that are needed later than ``needed``, when the new one is, are not enough.
    """
    evicted: list[StoredCopy] = []
    for copy in sorted(copies, key=lambda copy: (-copy.needed, copy.used)):
        if excess <= 0 or copy.needed <= needed:
            break
        evicted.append(copy)
        excess -= copy.size
    return evicted if excess <= 0 else None


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
