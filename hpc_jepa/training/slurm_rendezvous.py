"""Rendezvous of the tasks of a Slurm step: rank 0 listens on one address and publishes it in a private file.

The file is in the folder of the run: it is the user's own, all ranks need it anyway, and rank 0 may write there.
"""

import errno
import ipaddress
import json
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psutil
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from hpc_jepa.config.cluster import COMMAND_NUMBER
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.io.retry import TRANSIENT_ERRNOS

FILE_NAME = re.compile(r"\.rendezvous-(?P<job>.+)-(?P<restart>\d+)-(?P<step>\d+)-(?P<command>\d+)")
POLL_SECONDS = 0.5
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
ADDRESS_FAMILIES = (socket.AF_INET, socket.AF_INET6)
FOREIGN = "remove it, and see who else can write to this folder; torchrun does without the file"
REMEDY = "set nccl.interface in the profile, or GLOO_SOCKET_IFNAME, to the interface between the nodes"


def slurm_store(step: Mapping[str, str], folder: Path, timeout: timedelta) -> TCPStore:
    """The store of the ranks of a job step, once all of them have joined.

    ``step``: environment of the process. ``folder``: on a file system that all ranks share; created if missing.
    Raises InputError if this node has no suitable address, HpcJepaError if the file of rank 0 does not appear or is
    not this user's, torch's DistError if not all ranks join in time.
    """
    rank, world_size = int(step["SLURM_PROCID"]), int(step["SLURM_STEP_NUM_TASKS"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created ({error.strerror}); choose another runs=") from error
    file = folder / file_name(step)
    if rank > 0:
        address, port = _wait_for(file, timeout, refresh=step["SLURM_LOCALID"] == "0")
        return TCPStore(address, port, world_size, is_master=False, timeout=timeout)
    listener = listen(step)
    address, port = listener.getsockname()[:2]
    with _published(file, address, port):
        _remove_leftovers(file, 2 * timeout)
        descriptor = listener.detach()  # the store closes it
        return TCPStore(address, port, world_size, is_master=True, timeout=timeout, master_listen_fd=descriptor)


def file_name(step: Mapping[str, str]) -> str:
    """Unique for each start and each command of a step: an older copy of the job may still be alive."""
    cluster = re.sub(r"\W", "_", step.get("SLURM_CLUSTER_NAME", ""))
    numbers = (step.get("SLURM_RESTART_COUNT", "0"), step["SLURM_STEP_ID"], step.get(COMMAND_NUMBER, "0"))
    return "-".join((f".rendezvous-{cluster}", step["SLURM_JOB_ID"], *numbers))


def listen(step: Mapping[str, str]) -> socket.socket:
    """A socket that listens on a free port of one address of this node, which all ranks can reach."""
    addresses = node_addresses(step)
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with suppress(OSError):
            return socket.create_server((address, 0), family=family)
    raise InputError(f"this node cannot listen on {', '.join(addresses)}, the address of its name in Slurm; {REMEDY}")


def node_addresses(step: Mapping[str, str]) -> list[str]:
    """Addresses of this node for the other ranks, best first; loopback if all ranks are on this node.

    From the interface that gloo or NCCL uses if one is set, else from the name of the node.
    """
    if step.get("SLURM_STEP_NUM_NODES") == "1":
        return ["127.0.0.1"]
    for variable in INTERFACE_VARIABLES:
        value = step.get(variable, "")
        if value and not value.startswith("^"):  # NCCL: all interfaces but these
            return _addresses_of_interface(variable, value)
    name = step.get("SLURMD_NODENAME", socket.gethostname())
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"{name}: this node cannot resolve its name ({error.strerror}); {REMEDY}") from error
    addresses = [str(address[0]) for *_, address in found]
    reachable = [address for address in addresses if address == name or not ipaddress.ip_address(address).is_loopback]
    if not reachable:
        raise InputError(f"{name} is {addresses[0]} on this node, which other nodes cannot reach; {REMEDY}")
    return reachable


def _addresses_of_interface(variable: str, value: str) -> list[str]:
    """NCCL accepts beginnings of names, unless they follow ``=``."""
    wanted, present = value.partition(",")[0], psutil.net_if_addrs()
    name = wanted.removeprefix("=")
    if name not in present and variable.startswith("NCCL") and name == wanted:
        name = next((each for each in sorted(present) if each.startswith(wanted)), name)
    addresses = [each.address for family in ADDRESS_FAMILIES for each in present.get(name, ()) if each.family == family]
    usable = [address for address in addresses if "%" not in address]  # link-local addresses of IPv6 need a scope
    if not usable:
        raise InputError(f"{variable}={value}: no such interface with an address here; it has {', '.join(present)}")
    return usable


@contextmanager
def _published(file: Path, address: str, port: int) -> Iterator[None]:
    """The file with the address for the duration of the block."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(file, flags, 0o600)
    except FileExistsError:
        raise HpcJepaError(f"{file}: exists, although no other start has this name; remove it") from None
    except OSError as error:
        raise HpcJepaError(f"{file}: cannot be created ({error.strerror}); all ranks need it to meet") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as output:
            output.write(json.dumps([file.name, address, port]) + "\n")
        yield
    finally:
        file.unlink(missing_ok=True)


def _wait_for(file: Path, timeout: timedelta, refresh: bool) -> tuple[str, int]:
    """Address and port from the file of rank 0. ``refresh``: update the cache of an NFS client; one rank per node."""
    deadline = time.monotonic() + timeout.total_seconds()
    while (found := read_address(file)) is None:
        if time.monotonic() > deadline:
            raise HpcJepaError(
                f"{file}: rank 0 did not write its address here within {timeout.total_seconds():.0f} s; check its log, "
                "and that all nodes share this folder"
            )
        time.sleep(POLL_SECONDS)
        if refresh:  # an NFS client caches a missing file for up to a minute, unless its folder changes
            with suppress(OSError), tempfile.TemporaryFile(dir=file.parent):
                pass
    return found


def read_address(file: Path) -> tuple[str, int] | None:
    """Address and port in the file of rank 0; None if it is missing or incomplete.

    Raises HpcJepaError unless it is a regular file of this user, which only this user can write, of this start.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, *TRANSIENT_ERRNOS):
            return None
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise HpcJepaError(f"{file}: cannot be read ({reason}); {FOREIGN}") from error
    with os.fdopen(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise HpcJepaError(f"{file}: not a regular file that only this user can write; {FOREIGN}")
        content = opened.read(4096)
    if not content.endswith(b"\n"):
        return None
    with suppress(ValueError):
        match json.loads(content):
            case [file.name, str(address), int(port)]:
                return address, port
    raise HpcJepaError(f"{file}: written by another start; {FOREIGN}")


def _remove_leftovers(own: Path, age: timedelta) -> None:
    """Remove files of killed starts: of this job before it was requeued, and those that nobody waits for any more."""
    ours = FILE_NAME.fullmatch(own.name)
    now = own.stat().st_mtime  # on the clock that stamps all of them
    for path in own.parent.glob(".rendezvous-*"):
        other = FILE_NAME.fullmatch(path.name)
        if ours is None or other is None:
            continue
        before = other["job"] == ours["job"] and int(other["restart"]) < int(ours["restart"])
        with suppress(OSError):
            if before or now - path.lstat().st_mtime > age.total_seconds():
                path.unlink()
