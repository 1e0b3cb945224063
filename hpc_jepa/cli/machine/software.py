"""The interpreter, the packages, and the commands of Slurm."""

import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from hpc_jepa.cli.machine.check_result import CheckResult

SHOWN = ("torch", "deepspeed", "nvidia-dali-cuda130", "av")
SLURM = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "srun")


def python() -> CheckResult:
    """Which interpreter runs this."""
    return CheckResult("Python", "ok", f"{platform.python_version()}, {sys.executable}")


def packages() -> list[CheckResult]:
    """Whether the packages this one needs are there, in versions it works with."""
    needed = [Requirement(line) for line in requires("hpc_jepa") or ()]
    wrong = [line for line in map(_unmet, (need for need in needed if need.marker is None)) if line]
    versions = ", ".join(f"{name} {version(name)}" for name in SHOWN if _version(name))
    if wrong:
        return [
            CheckResult("packages", "missing", "; ".join(wrong), "install them with the versions of constraints.txt")
        ]
    return [CheckResult("packages", "ok", versions)]


def slurm() -> CheckResult:
    """Which Slurm commands are on the PATH."""
    absent = [command for command in SLURM if not shutil.which(command)]
    if not absent:
        return CheckResult("Slurm", "ok", ", ".join(SLURM))
    if len(absent) == len(SLURM):
        return CheckResult(
            "Slurm", "note", "not on the PATH", "studies run on this machine; clusters: use a login node"
        )
    return CheckResult(
        "Slurm", "missing", f"no {', '.join(absent)} on the PATH", "load the Slurm module of the cluster"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _unmet(need: Requirement) -> str | None:
    found = _version(need.name)
    if found is None:
        return f"no {need.name}"
    return None if need.specifier.contains(found, prereleases=True) else f"{need.name} {found}, not {need.specifier}"
