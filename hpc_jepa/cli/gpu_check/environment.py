"""Versions, driver and compilers."""

import importlib.util
import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hpc_jepa.cli.gpu_check.children import visible_devices
from hpc_jepa.cli.gpu_check.part import PartContext, Verdict
from hpc_jepa.cli.machine import CheckResult, cuda, hardware, software
from hpc_jepa.kernels.build_tools import INSTALL, installed_build_tools

PACKAGES = (
    "torch", "triton", "deepspeed", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "av", "numpy", "nvidia-nccl-cu13",
    "nvidia-nccl-cu12", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "pytest",
)  # fmt: skip


def environment(context: PartContext) -> Verdict:
    """One row per package, tool and GPU. A missing one is a warning: later parts name what fails without it."""
    found = [
        *(software.python(), *software.packages(), *hardware.gpus()),
        *(*cuda.compare_versions(cuda.installed_versions()), cuda.build_tools(), *compilers()),
        software.slurm(),
    ]
    for check in found:
        status = None if check.status == "ok" else check.status
        context.row("What is installed", check=check.check, status=status, found=check.detail)
        if check.status == "missing":
            context.warn(f"{check.check}: {check.detail}; {check.advice}")
    for name in PACKAGES:
        try:
            context.row("Package versions", package=name, version=version(name))
        except PackageNotFoundError:
            continue
    devices = visible_devices()
    missing = [check.check for check in found if check.status == "missing"]
    gpus = f"{len(devices.names)} x {devices.names[0]}" if devices.names else "no GPU"
    line = f"{gpus}, torch {devices.torch}, CUDA {devices.cuda or 'none'}"
    return Verdict("warning", f"{line}; missing: {', '.join(missing)}") if missing else Verdict("ok", line)


def compilers() -> list[CheckResult]:
    """Versions of what Triton runs for a kernel (a C compiler, ptxas), and torch.compile besides (g++)."""
    return [
        _tool("C compiler", installed_build_tools().compiler or "gcc", INSTALL),
        _tool("C++ compiler", os.environ.get("CXX", "g++"), "install g++; needed by engine.compile only"),
        _tool("ptxas", _ptxas(), "reinstall triton, or set TRITON_PTXAS_PATH"),
    ]


def _ptxas() -> str:
    """Triton's own ptxas, unless another is set."""
    if chosen := os.environ.get("TRITON_PTXAS_PATH"):
        return chosen
    found = importlib.util.find_spec("triton")
    bundled = Path(found.origin).parent / "backends" / "nvidia" / "bin" / "ptxas" if found and found.origin else None
    return str(bundled) if bundled and bundled.is_file() else "ptxas"


def _tool(name: str, program: str, advice: str) -> CheckResult:
    """Path and version of a program."""
    path = shutil.which(program)
    if path is None:
        return CheckResult(name, "missing", f"{program}: not found", advice)
    finished = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    lines = [line for line in finished.stdout.splitlines() if line.strip()]
    release = next((line for line in lines if "release" in line), lines[0] if lines else "unknown version")
    return CheckResult(name, "ok", f"{path}, {release.strip()}")
