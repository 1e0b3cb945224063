"""Who may write in a run folder: ``lease.json``.

A scheduler that loses sight of a node starts a second copy of what runs there. The newer copy takes the lease, the
older one notices and stops before it writes. A lock held all the time would not do: many file systems have none that
reaches other nodes, and the older copy would keep it.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import ValidationError

from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.io.atomic import exclusive_lock, write_atomically

HEARTBEAT_INTERVAL = 5.0
"""Seconds between two signs of life of a holder."""
LEASE_TIMEOUT = 6 * HEARTBEAT_INTERVAL
"""Seconds without one after which a holder counts as dead."""


class LeaseLostError(HpcJepaError):
    """A newer copy of the run has taken over: this one must not write any more."""


class LeaseHolder(Strict):
    """A process that trains. ``restart``: how often Slurm has started its job again."""

    token: str
    host: str
    process: int
    job: str | None
    restart: int

    @classmethod
    def current(cls) -> "LeaseHolder":
        """This process."""
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            process=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID"),
            restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )

    def supersedes(self, other: "LeaseHolder") -> bool:
        """Whether Slurm started this process because it believes the other one dead."""
        return self.job is not None and self.job == other.job and self.restart > other.restart

    def __str__(self) -> str:
        job = f"job {self.job}, restart {self.restart}, " if self.job else ""
        return f"{job}process {self.process} on {self.host}"


class Lease:
    """The right to write in a run folder, as long as nobody newer has taken it."""

    def __init__(self, run: Path, mine: LeaseHolder) -> None:
        self._path = lease_path(run)
        self._mine = mine

    def check(self) -> None:
        """Raise LeaseLostError when it is somebody else's by now."""
        if not self._is_mine():
            newer = read_holder(self._path.parent) or "somebody"
            raise LeaseLostError(f"{self._path.parent}: {newer} has taken over; this copy stops, unsaved")

    def heartbeat(self) -> None:
        """Give a sign of life. A lease that is lost is left alone."""
        if self._is_mine():
            os.utime(self._path)

    def release(self) -> None:
        """The next one need not wait."""
        if self._is_mine():
            self._path.unlink()

    def _is_mine(self) -> bool:
        now = read_holder(self._path.parent)
        return now is not None and now.token == self._mine.token


@contextmanager
def hold_lease(run: Path) -> Iterator[Lease]:
    """Take the lease of a run folder, and give it back at the end.

    One that a dead process holds, or an older copy of the same job, is taken over; of a dead one without a word that it
    is, after ``SILENCE``. Raises InputError while a process that lives holds it.
    """
    mine, held = LeaseHolder.current(), read_holder(run)
    takes_over = held is not None and mine.supersedes(held)
    with _run_lock(run, needed=not takes_over):
        if held is not None and not takes_over and _is_alive(run, held):
            raise InputError(f"{run}: {held} is training here; wait for it, or stop it first")
        write_atomically(lease_path(run), mine.model_dump_json().encode())
        lease, over = Lease(run, mine), threading.Event()
        heart = threading.Thread(target=_heartbeat_loop, args=(lease, over), name="lease", daemon=True)
        heart.start()
        try:
            yield lease
        finally:
            over.set()
            heart.join()
            lease.release()


def read_holder(run: Path) -> LeaseHolder | None:
    """Who holds the lease of a run folder, dead or alive."""
    try:
        return LeaseHolder.model_validate_json(lease_path(run).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def is_expired(run: Path) -> bool:
    """Whether a lease is held by somebody who gives no sign of life any more."""
    heard = _last_heartbeat(run)
    return heard is not None and time.time() - heard > LEASE_TIMEOUT


def lease_path(run: Path) -> Path:
    """The file."""
    return run / "lease.json"


@contextmanager
def _run_lock(run: Path, *, needed: bool) -> Iterator[None]:
    """Hold the lock, as a word to other commands on this file system; an older copy that hangs may keep it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(run / ".lock"))
        except InputError:
            if needed:
                raise
        yield


def _heartbeat_loop(lease: Lease, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT_INTERVAL):
        lease.heartbeat()


def _is_alive(run: Path, held: LeaseHolder) -> bool:
    """Whether a holder gives signs of life: a process here is looked up, one elsewhere is listened for."""
    if held.host == socket.gethostname():
        return Path(f"/proc/{held.process}").exists() and held.process != os.getpid()
    heard = _last_heartbeat(run)
    while heard is not None and time.time() - heard <= LEASE_TIMEOUT:
        time.sleep(1.0)
        if _last_heartbeat(run) != heard:
            return _last_heartbeat(run) is not None
    return False


def _last_heartbeat(run: Path) -> float | None:
    """When the holder gave its last sign of life, seconds since 1970; None without a holder."""
    try:
        return lease_path(run).stat().st_mtime
    except FileNotFoundError:
        return None
