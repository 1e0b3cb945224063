"""Run lease with heartbeat, ``lease.json``: which process may write to a run folder.

A scheduler that loses contact with a node starts a second copy of its job. The newer copy takes the lease; the older
one notices and stops before it writes. A file lock is not enough: many shared file systems do not pass locks between
nodes, and the older copy would keep it.
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
from hpc_jepa.runs.run_dir import RunDir

HEARTBEAT_INTERVAL = 5.0
"""Seconds between two heartbeats: the holder touches the file."""
LEASE_TIMEOUT = 6 * HEARTBEAT_INTERVAL
"""Seconds without a heartbeat after which the lease is expired."""


class LeaseLostError(HpcJepaError):
    """A newer copy of the run holds the lease; this process must not write any more."""


class LeaseHolder(Strict):
    """A training process. ``restart``: how often Slurm has requeued its job."""

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
        """Whether this is a later start of the same Slurm job."""
        return self.job is not None and self.job == other.job and self.restart > other.restart

    def __str__(self) -> str:
        job = f"job {self.job}, restart {self.restart}, " if self.job else ""
        return f"{job}process {self.process} on {self.host}"


class Lease:
    """The lease of a run folder as ``holder`` took it; another process may have taken it over since."""

    def __init__(self, run: RunDir, holder: LeaseHolder) -> None:
        self._run = run
        self._holder = holder

    def check(self) -> None:
        """Raise LeaseLostError if another process holds the lease now."""
        if not self._is_held():
            newer = read_holder(self._run) or "another process"
            raise LeaseLostError(f"{self._run}: {newer} has taken over; this process stops without saving")

    def heartbeat(self) -> None:
        """Renew the lease, unless it is lost."""
        if self._is_held():
            os.utime(self._run.lease_file)

    def release(self) -> None:
        """Delete the lease, unless it is lost, so that the next process need not wait."""
        if self._is_held():
            self._run.lease_file.unlink()

    def _is_held(self) -> bool:
        current = read_holder(self._run)
        return current is not None and current.token == self._holder.token


@contextmanager
def hold_lease(run: RunDir) -> Iterator[Lease]:
    """Take the lease, renew it in a thread, and release it at the end.

    A lease is taken over if its holder is dead or an earlier start of this Slurm job. If the holder is on another host,
    wait until it misses heartbeats for ``LEASE_TIMEOUT`` seconds. Raises InputError while a live process holds it.
    """
    holder, previous = LeaseHolder.current(), read_holder(run)
    takes_over = previous is not None and holder.supersedes(previous)
    with _run_lock(run, required=not takes_over):
        if previous is not None and not takes_over and _is_alive(run, previous):
            raise InputError(f"{run}: {previous} is training here; wait for it, or stop it first")
        write_atomically(run.lease_file, holder.model_dump_json().encode())
        lease, stop = Lease(run, holder), threading.Event()
        thread = threading.Thread(target=_heartbeat_loop, args=(lease, stop), name="lease", daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            stop.set()
            thread.join()
            lease.release()


def read_holder(run: RunDir) -> LeaseHolder | None:
    """Holder of the lease, dead or alive; None if there is no readable lease."""
    try:
        return LeaseHolder.model_validate_json(run.lease_file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def is_expired(run: RunDir) -> bool:
    """Whether the lease has a holder that misses its heartbeats."""
    last = _last_heartbeat(run)
    return last is not None and time.time() - last > LEASE_TIMEOUT


@contextmanager
def _run_lock(run: RunDir, *, required: bool) -> Iterator[None]:
    """Hold the lock that other commands on this host check. A hanging older copy may still have it: then optional."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(run.lock_file))
        except InputError:
            if required:
                raise
        yield


def _heartbeat_loop(lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_INTERVAL):
        lease.heartbeat()


def _is_alive(run: RunDir, holder: LeaseHolder) -> bool:
    """Look up a process of this host; wait for a heartbeat of one on another host."""
    if holder.host == socket.gethostname():
        return Path(f"/proc/{holder.process}").exists() and holder.process != os.getpid()
    last = _last_heartbeat(run)
    while last is not None and time.time() - last <= LEASE_TIMEOUT:
        time.sleep(1.0)
        if _last_heartbeat(run) != last:
            return _last_heartbeat(run) is not None
    return False


def _last_heartbeat(run: RunDir) -> float | None:
    """Unix time of the last heartbeat, None without a lease."""
    try:
        return run.lease_file.stat().st_mtime
    except FileNotFoundError:
        return None
