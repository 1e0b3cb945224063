"""A ring of finished clips in shared memory, without a server: a file, checksums, and locks that end with their owner.

The file starts with one header per slot; the slots follow. Clip ``item`` is kept in slot ``item % slots``. A writer
clears the header, writes the clip, then the header; a reader reads header, clip, header, and compares the checksum, so
a torn or replaced clip is never taken. Nothing is mapped: writing to a full /dev/shm is an error, not a SIGBUS.

All locks are locks on bytes that the file does not have, owned by an open file description (``F_OFD_SETLK``): the
kernel releases them when the process ends, however it ends, so none has a time stamp, an owner's id or a timeout.
"""

import fcntl
import os
import stat
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FOLDER = Path("/dev/shm")
"""Shared memory of a node, as a file system."""
PAGE = 4096

_HEADER = struct.Struct("<QQQIIII")
HEADER_BYTES = 64
_FLOCK = struct.Struct("hhqqi4x")
"""``struct flock`` of Linux on 64-bit machines, padded as the compiler does."""
_WRITER, _PROBE, _CLAIM, _STEP = 0, 1 << 60, 1 << 61, 1 << 62
"""First byte of the locks on slots being written, to try it, on clips being made, and on a process's step."""

JOIN_ATTEMPTS, JOIN_PAUSE = 20, 0.05


class ClipFacts(NamedTuple):
    """What a batch states about a clip beside its pixels. real: leading frames that are no padding."""

    static: bool
    real: int


class _Header(NamedTuple):
    """item: number of the clip, plus 1; written: time of writing, which differs each time."""

    item: int
    written: int
    size: int
    real: int
    static: int
    checksum: int


class ClipRing:
    """Clips of recent steps of all processes that open the same ``name``, ``slots`` and ``slot_bytes``. Thread-safe.

    Raises OSError if the file cannot be opened, belongs to someone else, or cannot be locked.
    """

    def __init__(self, name: str, slots: int, slot_bytes: int) -> None:
        self.slots = slots
        self._stride = _pages(slot_bytes)
        self._data = _pages(slots * HEADER_BYTES)
        remove_dead_rings()
        self._path = _path(name)
        self._descriptor = _join(self._path)
        self._step: range | None = None
        try:
            _set_lock(self._descriptor, fcntl.F_RDLCK, _PROBE, 1)
        except OSError:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of the file with all slots in use."""
        return self._data + self.slots * self._stride

    @property
    def growth(self) -> int:
        """Bytes that the file still takes until all slots are in use."""
        return max(self.size - os.fstat(self._descriptor).st_blocks * 512, 0)

    @property
    def free_space(self) -> int:
        """Bytes that the file system has left."""
        system = os.fstatvfs(self._descriptor)
        return system.f_bavail * system.f_frsize

    def close(self) -> None:
        """Leave; the last process removes the file."""
        if self._descriptor >= 0:
            _remove_if_unused(self._path, self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def has(self, item: int) -> bool:
        """Whether a clip is in its slot, whole or not."""
        header = self._header(item)
        return header is not None and header.item == item + 1

    def take(self, item: int, clip: NDArray[np.uint8]) -> ClipFacts | None:
        """Copy a clip into ``clip`` [bytes]; None if the ring does not have it, and ``clip`` is then undefined."""
        header = self._header(item)
        if header is None or header.item != item + 1 or header.size != clip.nbytes:
            return None
        try:
            count = os.preadv(self._descriptor, [clip.data], self._offset(item))
        except OSError:  # a page that was swapped out and cannot be read
            return None
        if count != clip.nbytes or self._header(item) != header:
            return None
        return ClipFacts(bool(header.static), header.real) if checksum(clip) == header.checksum else None

    def put(self, item: int, clip: NDArray[np.uint8], facts: ClipFacts) -> None:
        """Store a clip, unless the ring has it or another process is writing to its slot.

        Raises OSError if the file system is full.
        """
        slot = item % self.slots
        if not self._lock(fcntl.F_WRLCK, _WRITER + slot):
            return
        try:
            if self.has(item):
                return
            self._write(bytes(HEADER_BYTES), slot * HEADER_BYTES)
            self._write(clip.data, self._offset(item))
            header = _Header(item + 1, time.monotonic_ns(), clip.nbytes, facts.real, facts.static, checksum(clip))
            fields = _HEADER.pack(*header, 0)[:-4]
            self._write(fields + struct.pack("<I", zlib.crc32(fields)), slot * HEADER_BYTES)
        finally:
            self._lock(fcntl.F_UNLCK, _WRITER + slot)

    def claim(self, item: int) -> bool:
        """Whether this process may make a clip; False while another one makes it."""
        return self._lock(fcntl.F_WRLCK, _CLAIM + item)

    def release(self, item: int) -> None:
        """End a claim."""
        self._lock(fcntl.F_UNLCK, _CLAIM + item)

    def announce(self, items: range) -> None:
        """State the clips of this process's step, in place of those announced before, which are others or the same."""
        before, self._step = self._step, items
        if items == before:
            return
        self._lock(fcntl.F_RDLCK, _STEP + items.start, len(items))  # first, so that others see one of both at any time
        if before is not None:
            self._lock(fcntl.F_UNLCK, _STEP + before.start, len(before))

    def is_announced(self, items: range) -> bool:
        """Whether any of these clips are among those of the step of another process."""
        wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _STEP + items.start, len(items), 0)
        found = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, wanted)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def _offset(self, item: int) -> int:
        return self._data + item % self.slots * self._stride

    def _header(self, item: int) -> _Header | None:
        content = os.pread(self._descriptor, _HEADER.size, item % self.slots * HEADER_BYTES)
        if len(content) < _HEADER.size:
            return None
        *fields, check = _HEADER.unpack(content)
        return _Header(*fields) if zlib.crc32(content[:-4]) == check else None

    def _write(self, content: bytes | memoryview, offset: int) -> None:
        rest = memoryview(content)
        while rest:
            written = os.pwrite(self._descriptor, rest, offset)
            rest, offset = rest[written:], offset + written

    def _lock(self, kind: int, start: int, length: int = 1) -> bool:
        """Set or release a lock; False if another process has it, or the kernel has no more."""
        try:
            _set_lock(self._descriptor, kind, start, length)
        except OSError:
            return False
        return True


def _set_lock(descriptor: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def checksum(clip: NDArray[np.uint8]) -> int:
    """CRC-32 of the sums of all pages (as 64-bit integers), and of the rest: as fast as memory, and notices torn clips.

    A clip that is torn between two writes has words of one clip and words of another; two such sums are equal with a
    probability of 2^-64, and the CRC of different sums with one of 2^-32.
    """
    whole = clip.nbytes // PAGE * PAGE
    sums = clip[:whole].view(np.uint64).reshape(-1, PAGE // 8).sum(axis=1, dtype=np.uint64)
    return zlib.crc32(clip[whole:].data, zlib.crc32(sums.data))


def remove_dead_rings() -> None:
    """Remove the rings of this user that no living process has open."""
    for path in FOLDER.glob(_path("*").name):
        with _opened(path, 0) as descriptor:
            if descriptor is not None:
                _remove_if_unused(path, descriptor)


def _path(name: str) -> Path:
    return FOLDER / f"hpc_jepa-{os.getuid()}-{name}.ring"


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int | None]:
    """A regular file of this user, or None."""
    try:
        descriptor = _open(path, flags)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    """Open a file that only this user can read. Raises OSError if it is anything else."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        os.close(descriptor)
        raise PermissionError(0, "it is not a private file of this user", str(path))
    return descriptor


def _join(path: Path) -> int:
    """Open the ring with a shared ``flock``, by which the living are told from the dead."""
    for _ in range(JOIN_ATTEMPTS):
        descriptor = _open(path, os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError:  # it is being removed
            time.sleep(JOIN_PAUSE)
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise OSError(0, "another process is removing it", str(path))


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_if_unused(path: Path, descriptor: int) -> None:
    """Remove a ring unless another process has it open."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, descriptor):
            path.unlink(missing_ok=True)
    except OSError:  # it is in use, or another process removes it
        return
