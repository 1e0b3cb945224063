"""Whether the driver, PyTorch and DALI fit together, and what Triton needs to start kernels."""

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from hpc_jepa.cli.machine import CheckResult
from hpc_jepa.cli.machine.hardware import driver_versions
from hpc_jepa.kernels.build_tools import INSTALL, BuildTools, installed_build_tools

MINIMUM_DRIVER = {12: 525, 13: 580}
"""Oldest driver branch that runs programs of a CUDA major version (CUDA toolkit release notes, table 2)."""

DALI_BUILDS = {12: "nvidia-dali-cuda120", 13: "nvidia-dali-cuda130"}
"""Package of each CUDA major version."""


@dataclass(frozen=True)
class CudaVersions:
    """Versions that must fit together.

    driver: None without nvidia-smi. gpus: those of the driver; visible: those that torch can use. torch_cuda: "13.0",
    None in a CPU build. dali: CUDA major versions of the installed builds. visible_devices: CUDA_VISIBLE_DEVICES.
    """

    driver: str | None
    gpus: int
    torch: str
    torch_cuda: str | None
    visible: int
    dali: tuple[int, ...]
    visible_devices: str | None = None


def installed_versions() -> CudaVersions:
    """Of this machine and this environment."""
    drivers = driver_versions()
    return CudaVersions(
        driver=drivers[0] if drivers else None,
        gpus=len(drivers),
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        visible=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        dali=tuple(major for major, package in DALI_BUILDS.items() if _is_installed(package)),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def compare_versions(found: CudaVersions) -> list[CheckResult]:
    """One line per mismatch with its remedy, or one line that all fit. Empty without a driver and a GPU."""
    wrong = [result for result in (_torch(found), _dali(found), _visible(found)) if result]
    if wrong or (found.driver is None and not found.visible):
        return wrong
    dali = "".join(f", DALI for CUDA {major}" for major in found.dali)
    driver = f"driver {found.driver or 'unknown'}, {found.visible} of {max(found.gpus, found.visible)} GPUs visible"
    return [CheckResult("CUDA", "ok", f"{driver}; torch {found.torch} for CUDA {found.torch_cuda}{dali}")]


def build_tools(tools: BuildTools | None = None) -> CheckResult:
    """Compiler and headers for Triton; without a GPU nothing needs them."""
    tools = tools or installed_build_tools()
    if not tools.missing:
        return CheckResult("Triton", "ok", f"builds launchers with {tools.compiler} and {tools.python_h}")
    detail = f"not found: {', '.join(tools.missing)}; training on a GPU needs it"
    return CheckResult("Triton", "missing" if torch.cuda.is_available() else "note", detail, INSTALL)


def extra_for(driver: str | None) -> str:
    """The extra with the newest build that a driver runs."""
    majors = [major for major, least in MINIMUM_DRIVER.items() if driver and _branch(driver) >= least]
    return f"cuda{max(majors)}" if majors else "cpu"


def _torch(found: CudaVersions) -> CheckResult | None:
    if found.driver is None:
        return None
    if found.torch_cuda is None:
        detail = f"driver {found.driver}, but torch {found.torch} is built for CPUs"
    elif _runs(found.driver, cuda := int(found.torch_cuda.split(".")[0])):
        return None
    else:
        detail = f"driver {found.driver}, but torch {found.torch} is built for CUDA {found.torch_cuda}, {_needs(cuda)}"
    return CheckResult("CUDA of torch", "missing", detail, _install(extra_for(found.driver)))


def _dali(found: CudaVersions) -> CheckResult | None:
    extra = extra_for(found.driver) if found.driver else f"cuda{max(found.dali, default=13)}"
    if len(found.dali) > 1:
        names = [DALI_BUILDS[major] for major in found.dali]
        advice = f"pip uninstall {' '.join(names)}, then {_install(extra)}"
        return CheckResult("CUDA of DALI", "missing", f"{' and '.join(names)} overwrite each other's files", advice)
    for dali in found.dali:
        if found.driver and not _runs(found.driver, dali):
            detail = f"driver {found.driver}, but DALI is built for CUDA {dali}, {_needs(dali)}"
            return CheckResult("CUDA of DALI", "missing", detail, _install(extra))
        if found.visible and found.torch_cuda and int(found.torch_cuda.split(".")[0]) != dali:
            detail = f"DALI is built for CUDA {dali}, torch for CUDA {found.torch_cuda}; never tested together"
            return CheckResult("CUDA of DALI", "note", detail, _install(extra))
    return None


def _visible(found: CudaVersions) -> CheckResult | None:
    """GPUs that torch cannot use although its build fits."""
    if found.visible or not found.gpus or found.torch_cuda is None or _torch(found):
        return None
    if found.visible_devices is not None:
        detail = f"CUDA_VISIBLE_DEVICES={found.visible_devices} hides all of {found.gpus} GPUs"
        return CheckResult("CUDA", "missing", detail, "unset it, or request GPUs from Slurm")
    detail = f"driver {found.driver} has {found.gpus} GPUs, but torch sees none"
    return CheckResult("CUDA", "missing", detail, "python -c 'import torch; torch.cuda.init()' shows the reason")


def _runs(driver: str, cuda: int) -> bool:
    """Whether a driver runs programs of a CUDA major version; unknown newer versions are taken to run."""
    return _branch(driver) >= MINIMUM_DRIVER.get(cuda, 0)


def _needs(cuda: int) -> str:
    return f"which needs driver {MINIMUM_DRIVER[cuda]} or later"


def _branch(driver: str) -> int:
    """580 of 580.65.06."""
    return int(driver.split(".")[0])


def _install(extra: str) -> str:
    if extra == "cpu":
        return f"update the driver to {min(MINIMUM_DRIVER.values())} or later; until then runs use the CPU"
    constraints = "constraints-cuda12.txt" if extra == "cuda12" else "constraints.txt"
    return f"make install EXTRA={extra}, or in a new environment: pip install -c {constraints} 'hpc_jepa[{extra}]'"


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
