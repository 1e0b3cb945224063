"""Python, packages, and Slurm commands."""

import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from hpc_jepa.cli.machine import CheckResult

SHOWN = ("torch", "deepspeed", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "av")
SLURM = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "srun")


def python() -> CheckResult:
    """Version and path of the interpreter."""
    return CheckResult("Python", "ok", f"{platform.python_version()}, {sys.executable}")


def packages() -> list[CheckResult]:
    """Whether all required packages are installed in a supported version."""
    requirements = [Requirement(line) for line in requires("hpc_jepa") or ()]
    wrong = [line for line in map(_unmet, (x for x in requirements if x.marker is None)) if line]
    versions = ", ".join(f"{name} {version(name)}" for name in SHOWN if _version(name))
    if wrong:
        return [CheckResult("packages", "missing", "; ".join(wrong), "install the versions listed in constraints.txt")]
    return [CheckResult("packages", "ok", versions)]


def slurm() -> CheckResult:
    """Slurm commands on the PATH."""
    missing = [command for command in SLURM if not shutil.which(command)]
    if not missing:
        return CheckResult("Slurm", "ok", ", ".join(SLURM))
    if len(missing) == len(SLURM):
        return CheckResult(
            "Slurm", "note", "not on the PATH", "studies run on this machine; to use a cluster, log in to it"
        )
    return CheckResult(
        "Slurm", "missing", f"no {', '.join(missing)} on the PATH", "load the Slurm module of the cluster"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _unmet(requirement: Requirement) -> str | None:
    installed = _version(requirement.name)
    if installed is None:
        return f"no {requirement.name}"
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return f"{requirement.name} {installed}, not {requirement.specifier}"
