"""Processor cores, memory and GPUs."""

import os
import shutil
import subprocess
import time

import torch

from hpc_jepa.cli.machine import CheckResult


def cores() -> CheckResult:
    """Usable cores, and memory."""
    usable, total = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = f"{usable} of {total} cores, {memory:.0f} GiB memory"
    if usable < total:
        return CheckResult(
            "CPU", "note", found, "this process is bound to these cores; request more from Slurm with --cpus-per-task"
        )
    return CheckResult("CPU", "ok", found)


def bf16() -> CheckResult:
    """Speed of bf16 matrix products relative to fp32 on the CPU."""
    ratio = _seconds(torch.float32) / _seconds(torch.bfloat16)
    found = f"matrix products run {ratio:.1f}x as fast as in fp32"
    if ratio < 1:
        return CheckResult("CPU bf16", "note", found, "set engine.precision=fp32 for runs without a GPU")
    return CheckResult("CPU bf16", "ok", found)


def gpus() -> list[CheckResult]:
    """Name, memory, driver and bf16 support of every CUDA device."""
    driver = _driver()
    if not torch.cuda.is_available():
        if driver:
            advice = f"torch {torch.__version__} cannot use driver {driver}; install a torch built for it"
            return [CheckResult("GPU", "missing", "driver found, but torch sees no GPU", advice)]
        return [CheckResult("GPU", "note", "none", "runs use the CPU, which is fast enough for the quickstart only")]
    return [_gpu(number, driver) for number in range(torch.cuda.device_count())]


def _gpu(number: int, driver: str | None) -> CheckResult:
    properties = torch.cuda.get_device_properties(number)
    found = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, driver {driver or 'unknown'}"
    if properties.major < 8:  # below Ampere, torch emulates bf16
        return CheckResult(f"GPU {number}", "note", f"{found}, no bf16", "set engine.precision=fp32")
    return CheckResult(f"GPU {number}", "ok", f"{found}, bf16")


def _seconds(precision: torch.dtype) -> float:
    """Time of four matrix products after a warm-up."""
    a = torch.ones(1024, 1024, dtype=precision)
    a @ a
    started = time.perf_counter()
    for _ in range(4):
        a @ a
    return time.perf_counter() - started


def _driver() -> str | None:
    """Version of the NVIDIA driver; None if there is none."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    finished = subprocess.run(query, capture_output=True, text=True, check=False)
    return finished.stdout.split("\n")[0].strip() or None if finished.returncode == 0 else None
