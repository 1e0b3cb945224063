"""Identity of a process: process ids are reused, so an id alone is not one."""

import os
import signal
from pathlib import Path

from pydantic import ValidationError

from hpc_jepa.config.strict import Strict
from hpc_jepa.io.regular import read_regular

PROC = Path("/proc")
USER_FILE = ".user.json"
START_TIME_FIELD = 19
"""Index of ``starttime`` among the fields of ``/proc/PID/stat`` after the command name: field 22 of proc(5)."""


class ProcessIdentity(Strict):
    """A process, distinguishable from a later one with the same id.

    ``machine``: boot of the machine and PID namespace to which the id belongs; ``start``: start time in clock
    ticks since the boot; ``command``: its arguments.
    """

    machine: str
    pid: int
    start: int
    command: tuple[str, ...]

    @property
    def is_running(self) -> bool:
        """Whether this process runs now, on this machine. False for the ids of init and of process groups."""
        return self.pid > 1 and find_process(self.pid) == self

    def send_signal(self, number: int) -> bool:
        """Send a signal to this process and no other; False if it does not run.

        The descriptor is opened before the check, so that the id cannot pass to another process in between.
        """
        if self.pid <= 1:
            return False
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        except OSError:  # Linux before 5.3
            descriptor = None
        try:
            if not self.is_running:
                return False
            if descriptor is None:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(descriptor, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            if descriptor is not None:
                os.close(descriptor)


def find_process(pid: int) -> ProcessIdentity | None:
    """The process with this id on this machine; None if there is none, or if it has ended but not been waited for."""
    try:
        name_and_fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        arguments = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    fields = name_and_fields.rpartition(")")[2].split()
    if fields[0] == "Z":
        return None
    command = tuple(part.decode(errors="replace") for part in arguments.rstrip(b"\0").split(b"\0"))
    return ProcessIdentity(machine=_this_machine(), pid=pid, start=int(fields[START_TIME_FIELD]), command=command)


def current_process() -> ProcessIdentity | None:
    """This process; None on a system without ``/proc``."""
    return find_process(os.getpid())


def on_this_machine(process: ProcessIdentity) -> bool:
    """Whether the id of the process has a meaning here: same boot of the same machine, same PID namespace."""
    return process.machine == _this_machine()


def _this_machine() -> str:
    boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {(PROC / 'self/ns/pid').stat().st_ino}"


def mark_in_use(folder: Path) -> None:
    """Record this process as the user of a temporary folder."""
    process = current_process()
    if process is not None:
        (folder / USER_FILE).write_text(process.model_dump_json(), encoding="utf-8")


def is_in_use(folder: Path) -> bool:
    """Whether the user of a temporary folder may still run: it does, it is on another machine, or it is unknown."""
    try:
        process = ProcessIdentity.model_validate_json(read_regular(folder / USER_FILE))
    except (OSError, ValidationError):
        return True
    return not on_this_machine(process) or process.is_running
