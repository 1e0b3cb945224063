"""Run Slurm commands: job states from ``squeue``, and from ``sacct`` for jobs that have left the queue."""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from hpc_jepa.errors import HpcJepaError, InputError

TIMEOUT = 20  # seconds for a Slurm command
WAITING_STATES = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
ACTIVE_STATES = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"})
"""Slurm states of jobs that have not ended."""


@dataclass(frozen=True)
class JobState:
    """Slurm state of a job, the reason Slurm gives for it, and the nodes it runs on."""

    state: str
    reason: str
    nodes: str

    @property
    def is_active(self) -> bool:
        """Whether the job is waiting or running."""
        return self.state in WAITING_STATES | ACTIVE_STATES

    @property
    def is_waiting(self) -> bool:
        """Whether the job has not started yet or is about to restart."""
        return self.state in WAITING_STATES


def require_commands(*commands: str) -> None:
    """Raise InputError unless all commands are on the PATH."""
    for command in commands:
        if shutil.which(command) is None:
            raise InputError(f"{command}: not on the PATH; log in to a node of the cluster, or use --cluster local")


def run_slurm(*command: str) -> str:
    """Standard output of a Slurm command.

    Raises HpcJepaError with Slurm's own message if the command fails, InputError if it is not installed.
    """
    require_commands(command[0])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise HpcJepaError(
            f"{command[0]}: no answer within {TIMEOUT} s; the controller may be down, try again later"
        ) from error
    if done.returncode != 0:
        raise HpcJepaError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout


def squeue_jobs() -> dict[str, JobState]:
    """All jobs of this user that ``squeue`` lists, by ``ARRAY_ELEMENT`` or id; ended ones stay for some minutes.

    Raises HpcJepaError if Slurm does not answer.
    """
    listing = run_slurm("squeue", "--noheader", "--me", "--array", "--states=all", "--format=%i|%T|%r|%N")
    rows = [line.split("|", maxsplit=3) for line in listing.splitlines()]
    return {job: JobState(state, reason, nodes) for job, state, reason, nodes in rows}


def sacct_jobs(jobs: Iterable[str]) -> dict[str, JobState]:
    """States of jobs in the accounting database; empty on a site without one."""
    ids = ",".join(jobs)
    if not ids or shutil.which("sacct") is None:
        return {}
    command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={ids}", "--format=JobID,State,NodeList"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {job: JobState(state.split()[0], state.lower(), nodes) for job, state, nodes in rows}


def scancel(jobs: Iterable[str]) -> None:
    """Cancel jobs, whatever their state."""
    ids = tuple(jobs)
    if ids:
        run_slurm("scancel", *ids)
