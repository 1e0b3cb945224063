"""What Slurm says about jobs: ``squeue`` where it answers, ``sacct`` for those it has forgotten."""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from hpc_jepa.errors import HpcJepaError, InputError

TIMEOUT = 20  # seconds for a command of Slurm
WAITING_STATES = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
ACTIVE_STATES = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"})
"""Slurm's words for jobs that are not over."""


@dataclass(frozen=True)
class JobState:
    """State of a job in Slurm's words, why it waits or ended so, and where it runs."""

    state: str
    reason: str
    nodes: str

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in WAITING_STATES | ACTIVE_STATES

    @property
    def is_waiting(self) -> bool:
        """Whether it has not started, or starts again."""
        return self.state in WAITING_STATES


def require_commands(*commands: str) -> None:
    """Raise InputError unless these commands are on the PATH."""
    for command in commands:
        if shutil.which(command) is None:
            raise InputError(f"{command}: not on the PATH; log in to a node of the cluster, or use --cluster local")


def run_slurm(*command: str) -> str:
    """What a command of Slurm prints. Raises HpcJepaError in its own words, InputError where it is not installed."""
    require_commands(command[0])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise HpcJepaError(
            f"{command[0]}: no answer within {TIMEOUT} s; the controller may be down, try later"
        ) from error
    if done.returncode != 0:
        raise HpcJepaError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout


def squeue_jobs() -> dict[str, JobState]:
    """All jobs of this user that Slurm still knows, by ``ARRAY_ELEMENT`` or id; ended ones for some minutes.

    Raises HpcJepaError where Slurm does not answer.
    """
    listing = run_slurm("squeue", "--noheader", "--me", "--array", "--states=all", "--format=%i|%T|%r|%N")
    rows = [line.split("|", maxsplit=3) for line in listing.splitlines()]
    return {job: JobState(state, reason, nodes) for job, state, reason, nodes in rows}


def sacct_jobs(jobs: Iterable[str]) -> dict[str, JobState]:
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {job: JobState(state.split()[0], state.lower(), nodes) for job, state, nodes in rows}


def scancel(jobs: Iterable[str]) -> None:
    """Take jobs out of the queue, whatever state they are in."""
    wanted = tuple(jobs)
    if wanted:
        run_slurm("scancel", *wanted)
