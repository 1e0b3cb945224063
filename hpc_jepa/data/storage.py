"""Where the bytes of tars come from: files, URLs, or copies on a local disk."""

import fcntl
import hashlib
import logging
import os
import shutil
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, cast

from hpc_jepa.errors import InputError

MAX_OPEN_FILES = 64
LOG = logging.getLogger(__name__)


class ShardStorage(Protocol):
    """Reads parts of tars, from several threads at once. Raises OSError where that fails."""

    def read(self, tar: Path, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on; fewer where the tar ends."""

    def close(self) -> None:
        """Let go of files and threads."""


def parse_location(place: Path | str) -> Path:
    """A path, or for a URL an object that acts like one. Raises InputError where what reads URLs is not installed."""
    if "://" not in str(place):
        return Path(place)
    try:
        from upath import UPath
    except ImportError as error:
        raise InputError(f"{place}: URLs need another package; run: pip install 'hpc_jepa[remote]'") from error
    try:
        return cast(Path, UPath(place))
    except (ImportError, ValueError) as error:
        raise InputError(f"{place}: cannot be read ({error})") from error


def open_storage(folder: Path) -> ShardStorage:
    """What reads the tars of a folder, by the kind of its path."""
    return LocalStorage() if isinstance(folder, Path) else RemoteStorage()


class LocalStorage:
    """Files of this machine, a bounded number of them open."""

    def __init__(self) -> None:
        self._open = lru_cache(maxsize=MAX_OPEN_FILES)(_OpenFile)

    def read(self, tar: Path, offset: int, size: int) -> bytes:
        """One positional read: threads share the descriptor."""
        file = self._open(tar)  # held until the read is done: another thread may push it out of the cache
        return os.pread(file.descriptor, size, offset)

    def close(self) -> None:
        """Close all files."""
        self._open.cache_clear()


class RemoteStorage:
    """Parts of remote files, each by a request of its own; nothing stays open."""

    def read(self, tar: Any, offset: int, size: int) -> bytes:
        """One ranged request."""
        data: bytes = tar.fs.cat_file(tar.path, start=offset, end=offset + size)
        return data

    def close(self) -> None:
        """Nothing to do."""


class ScratchCache:
    """Copies tars to a local disk when they are first asked for, and reads from a copy as soon as it is whole.

    Processes of one machine share ``folder`` and copy one tar at a time. When the copies would take more than ``limit``
    bytes, the one made or found longest ago gives way if ``replace`` is set; else the tar stays where it is.
    """

    def __init__(self, folder: Path, limit: int, replace: bool) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"data.reading.scratch: {folder} cannot be made ({error.strerror})") from error
        self._folder = folder
        self._limit = limit
        self._replace = replace
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="scratch")
        self._copies: dict[Path, Future[Path | None]] = {}
        self._guard = Lock()

    def read(self, tar: Path, offset: int, size: int, origin: ShardStorage) -> bytes:
        """Part of a tar that ``origin`` reads as long as there is no copy."""
        with self._guard:
            if tar not in self._copies:
                self._copies[tar] = self._copier.submit(self._copy, tar)
            copying = self._copies[tar]
        copy = copying.result() if copying.done() else None
        if copy is None:
            return origin.read(tar, offset, size)
        try:
            # Opened for this read alone: a copy that gives way must not stay on the disk.
            with copy.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        except FileNotFoundError:
            with self._guard:
                self._copies.pop(tar, None)
            return origin.read(tar, offset, size)

    def settle(self) -> None:
        """Wait for the copies that were asked for."""
        with self._guard:
            asked = list(self._copies.values())
        wait(asked)

    def close(self) -> None:
        """Wait for the copy being made; copies stay for the next run."""
        self._copier.shutdown(wait=True, cancel_futures=True)

    def _copy(self, tar: Path) -> Path | None:
        """The copy of a tar, or None where it has no room."""
        facts = tar.stat()
        identity = f"{tar} {facts.st_size} {facts.st_mtime}"
        copy = self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.tar"
        try:
            with self._alone():
                if not copy.exists() and not self._make_room(facts.st_size):
                    return None
                if not copy.exists():
                    _copy_whole(tar, copy)
                os.utime(copy)
        except OSError as error:
            LOG.warning("%s: not copied to %s (%s); it is read where it is", tar, self._folder, error.strerror)
            return None
        return copy

    def _make_room(self, size: int) -> bool:
        """Whether ``size`` more bytes fit, after old copies have given way."""
        copies = sorted(self._folder.glob("*.tar"), key=lambda copy: copy.stat().st_mtime_ns)
        excess = sum(copy.stat().st_size for copy in copies) + size - self._limit
        if excess > 0 and not (self._replace and size <= self._limit):
            return False
        for copy in copies:
            if excess <= 0:
                break
            excess -= copy.stat().st_size
            copy.unlink()
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Other processes of the machine wait."""
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class CachedStorage:
    """The tars of one folder, through copies on a local disk."""

    def __init__(self, origin: ShardStorage, scratch: ScratchCache) -> None:
        self._origin = origin
        self._scratch = scratch

    def read(self, tar: Path, offset: int, size: int) -> bytes:
        """From the copy where there is one."""
        return self._scratch.read(tar, offset, size, self._origin)

    def close(self) -> None:
        """Close what reads the originals; the scratch folder serves other folders too."""
        self._origin.close()


class _OpenFile:
    """A descriptor that is closed when the last reader lets go of it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


def _copy_whole(tar: Path, copy: Path) -> None:
    """A copy appears under its name when it is complete."""
    partial = copy.with_name(f".{copy.name}.partial")
    try:
        with tar.open("rb") as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target, 4 << 20)
        partial.rename(copy)
    finally:
        partial.unlink(missing_ok=True)
