"""Versions, driver and compilers."""

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hpc_jepa.cli.gpu_check.children import visible_devices
from hpc_jepa.cli.gpu_check.part import PartContext, Verdict
from hpc_jepa.cli.machine import CheckResult, hardware, software

PACKAGES = (
    "torch", "triton", "deepspeed", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "av", "numpy", "nvidia-nccl-cu13",
    "nvidia-nccl-cu12", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "pytest",
)  # fmt: skip


def environment(context: PartContext) -> Verdict:
    """One row per package, tool and GPU; the first missing one is a warning, since later parts name what fails."""
    found = [software.python(), *software.packages(), *hardware.gpus(), *compilers(), software.slurm()]
    for check in found:
        context.row("What is installed", check=check.check, status=check.status, detail=check.detail)
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
    """What Triton needs for its first kernel (a C compiler, Python.h, ptxas), and torch.compile besides (g++)."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return [
        _tool("C compiler", os.environ.get("CC") or shutil.which("gcc") or "cc", "install gcc, or set CXX and CC"),
        _tool("C++ compiler", os.environ.get("CXX", "g++"), "install g++; needed by engine.compile only"),
        CheckResult("Python.h", "ok", str(header))
        if header.is_file()
        else CheckResult("Python.h", "missing", f"{header}: no such file", "install Python's headers (python3-dev)"),
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
