"""Ranks from Slurm: what ``srun`` says about a process, in the words that torch and DeepSpeed understand."""

import os
import re
from collections.abc import Mapping, MutableMapping

from hpc_jepa.errors import InputError

PORTS = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections."""

FIRST_HOST = re.compile(r"(?P<before>[^\[,]+)(?:\[(?P<first>\d+)[^\]]*\](?P<after>[^\[,]*))?")
"""The first host of a list such as ``node[017-020,031],login``."""


def set_ranks_from_slurm() -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT where srun started this process beside others.

    Where another launcher has set them they stay. Raises InputError in a job of several processes that was not started
    with srun: each of them, or the only one, would train alone and look like a success.
    """
    if os.environ.keys() & {"RANK", "WORLD_SIZE"}:
        return
    if "SLURM_STEP_ID" in os.environ:
        if int(os.environ["SLURM_STEP_NUM_TASKS"]) > 1:
            os.environ |= _rank_variables(os.environ)
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_JOB_ID" in os.environ:
        raise InputError(
            f"this Slurm job is meant for {os.environ['SLURM_NTASKS']} processes, but was started as one; "
            "put 'srun' in front of the command, or ask for --ntasks=1"
        )


def _rank_variables(step: Mapping[str, str]) -> MutableMapping[str, str]:
    """From the variables of a job step. A job that is started again meets elsewhere: an older copy may still listen."""
    number = 7 * int(step["SLURM_JOB_ID"]) + int(step.get("SLURM_RESTART_COUNT", "0"))
    return {
        "RANK": step["SLURM_PROCID"],
        "WORLD_SIZE": step["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": step["SLURM_LOCALID"],
        "MASTER_ADDR": first_host(step["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(PORTS[number % len(PORTS)]),
    }


def first_host(nodes: str) -> str:
    """The first name of Slurm's short form of a list of nodes."""
    match = FIRST_HOST.match(nodes)
    if match is None:
        raise InputError(f"SLURM_STEP_NODELIST={nodes}: not a list of nodes")
    return match["before"] + (match["first"] or "") + (match["after"] or "")
