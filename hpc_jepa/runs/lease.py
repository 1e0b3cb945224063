"""Run lease with heartbeat, ``lease.json``: which process may write to a run folder.

A scheduler that loses contact with a node starts a second copy of its job. The newer copy takes the lease; the older
one detects that and stops before it writes. A file lock is not enough: many shared file systems do not pass locks
between nodes, and the older copy would keep it.
"""

import logging
import os
import socket
import tempfile
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
from hpc_jepa.io.regular import read_regular
from hpc_jepa.io.retry import retry
from hpc_jepa.runs.process_identity import ProcessIdentity, current_process, on_this_machine
from hpc_jepa.runs.run_dir import RunDir

LOG = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 5.0
"""Seconds between two heartbeats: the holder touches the file."""
LEASE_TIMEOUT = 6 * HEARTBEAT_INTERVAL
"""Seconds without a heartbeat after which the lease is expired.

They are counted on one clock: clocks of two hosts can differ by more.
"""


class LeaseLostError(HpcJepaError):
    """A newer copy of the run holds the lease; this process must not write any more."""


class LeaseHolder(Strict):
    """A training process. ``restart``: how often Slurm has requeued its job.

    ``identity`` is None in leases of release 0.1, and on a system without ``/proc``.
    """

    token: str
    host: str
    process: int
    job: str | None
    restart: int
    identity: ProcessIdentity | None = None

    @classmethod
    def current(cls) -> "LeaseHolder":
        """This process."""
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            process=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID"),
            restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            identity=current_process(),
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
        self._heartbeat_error: BaseException | None = None

    def check(self) -> None:
        """Raise LeaseLostError if another process holds the lease now, OSError if the file stays unreadable.

        Raises HpcJepaError if the heartbeats have ended: other processes would take over the run.
        """
        if self._heartbeat_error is not None:
            raise HpcJepaError(f"{self._run}: heartbeats ended ({self._heartbeat_error!r})") from self._heartbeat_error
        if not retry(self._is_held):
            newer = read_holder(self._run) or "another process"
            raise LeaseLostError(f"{self._run}: {newer} has taken over; this process stops without saving")

    def heartbeat(self) -> None:
        """Renew the lease, unless it is lost."""
        if self._is_held():
            os.utime(self._run.lease_file)

    def heartbeats_ended(self, error: BaseException) -> None:
        """Let the next ``check`` raise: the thread of the heartbeats has failed."""
        self._heartbeat_error = error

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
    wait ``LEASE_TIMEOUT`` seconds for a heartbeat. Raises InputError while a live process holds it.
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
            try:
                lease.release()
            except OSError as error:  # the next process waits until the lease is expired
                LOG.warning("%s: cannot be removed (%s)", run.lease_file, error.strerror)


def read_holder(run: RunDir) -> LeaseHolder | None:
    """Holder of the lease, dead or alive; None if there is no readable lease."""
    try:
        return LeaseHolder.model_validate_json(read_regular(run.lease_file))
    except (FileNotFoundError, ValidationError):
        return None


def is_expired(run: RunDir) -> bool:
    """Whether the lease has a holder that misses its heartbeats.

    The age of the last heartbeat is taken on the clock of the file system, which stamps it.
    """
    last = _last_heartbeat(run)
    return last is not None and file_system_time(run.path) - last > LEASE_TIMEOUT


def is_held(run: RunDir) -> bool:
    """Whether a process trains the run, by its heartbeats."""
    return read_holder(run) is not None and not is_expired(run)


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
    """Renew the lease until ``stop``; an error of the file system costs one heartbeat, not all later ones."""
    while not stop.wait(HEARTBEAT_INTERVAL):
        try:
            lease.heartbeat()
        except OSError as error:
            LOG.warning("%s: heartbeat failed (%s); trying again", error.filename, error.strerror)
        except BaseException as error:
            lease.heartbeats_ended(error)
            raise


def _is_alive(run: RunDir, holder: LeaseHolder) -> bool:
    """Look up a process of this machine; wait for a heartbeat of one on another machine."""
    if holder.identity is not None and on_this_machine(holder.identity):
        return holder.identity.is_running
    if holder.identity is None and holder.host == socket.gethostname():
        return Path(f"/proc/{holder.process}").exists() and holder.process != os.getpid()
    return _sees_heartbeat(run, holder)


def _sees_heartbeat(run: RunDir, holder: LeaseHolder) -> bool:
    """Whether the heartbeat changes within LEASE_TIMEOUT on the clock of this process."""
    first = _last_heartbeat(run)
    if first is None:
        return False
    LOG.info("%s: %s held the lease; waiting %.0f s for a heartbeat", run, holder, LEASE_TIMEOUT)
    deadline = time.monotonic() + LEASE_TIMEOUT
    while time.monotonic() < deadline:
        time.sleep(1.0)
        if _last_heartbeat(run) != first:
            return _last_heartbeat(run) is not None
    return False


def _last_heartbeat(run: RunDir) -> float | None:
    """Modification time of the lease, None without a lease."""
    try:
        return retry(run.lease_file.stat).st_mtime
    except FileNotFoundError:
        return None


def file_system_time(folder: Path) -> float:
    """Time on the clock that stamps files in ``folder``; the time of this host if no file can be created there."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
            return Path(file.name).stat().st_mtime
    except OSError:
        return time.time()
