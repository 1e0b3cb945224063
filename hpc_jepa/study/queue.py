"""What Slurm says about jobs: ``squeue`` where it answers, ``sacct`` for those it has forgotten."""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from hpc_jepa.errors import HpcJepaError, InputError

PATIENCE = 20  # seconds for a command of Slurm
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
AT_WORK = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"})
"""Slurm's words for jobs that are not over."""


@dataclass(frozen=True)
class Queued:
    """State of a job in Slurm's words, why it waits or ended so, and where it runs."""

    state: str
    reason: str
    nodes: str

    @property
    def alive(self) -> bool:
        """Whether it waits or runs."""
        return self.state in WAITING | AT_WORK

    @property
    def waits(self) -> bool:
        """Whether it has not started, or starts again."""
        return self.state in WAITING


def require(*commands: str) -> None:
    """Raise InputError unless these commands are on the PATH."""
    for command in commands:
        if shutil.which(command) is None:
            raise InputError(f"{command}: not on the PATH; log in to a node of the cluster, or use --cluster local")


def slurm(*command: str) -> str:
    """What a command of Slurm prints. Raises HpcJepaError in its own words, InputError where it is not installed."""
    require(command[0])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise HpcJepaError(
            f"{command[0]}: no answer within {PATIENCE} s; the controller may be down, try later"
        ) from error
    if done.returncode != 0:
        raise HpcJepaError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout


def my_jobs() -> dict[str, Queued]:
    """All jobs of this user that Slurm still knows, by ``ARRAY_ELEMENT`` or id; ended ones for some minutes.

    Raises HpcJepaError where Slurm does not answer.
    """
    listing = slurm("squeue", "--noheader", "--me", "--array", "--states=all", "--format=%i|%T|%r|%N")
    rows = [line.split("|", maxsplit=3) for line in listing.splitlines()]
    return {job: Queued(state, reason, nodes) for job, state, reason, nodes in rows}


def accounted(jobs: Iterable[str]) -> dict[str, Queued]:
    """What the accounting knows of jobs; nothing where a site has none."""
    wanted = ",".join(jobs)
    if not wanted or shutil.which("sacct") is None:
        return {}
    command = (
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        f"--jobs={wanted}",
        "--format=JobID,State,NodeList",
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {job: Queued(state.split()[0], state.lower(), nodes) for job, state, nodes in rows}


def scancel(jobs: Iterable[str]) -> None:
    """Take jobs out of the queue, whatever state they are in."""
    wanted = tuple(jobs)
    if wanted:
        slurm("scancel", *wanted)
