"""CPU, memory, GPUs and file-system speed."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from hpc_jepa.cli.machine import CheckResult
from hpc_jepa.errors import InputError

TEST_BYTES = 64 * 2**20

SLOW = 100.0
"""MB/s; one fast GPU consumes several hundred clips of about 200 kB per second."""


def cores() -> CheckResult:
    """Usable cores, and memory."""
    usable, total = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    detail = f"{usable} of {total} cores, {memory:.0f} GiB memory"
    if usable < total:
        return CheckResult("CPU", "note", detail, "bound to these cores; request more from Slurm with --cpus-per-task")
    return CheckResult("CPU", "ok", detail)


def bf16() -> CheckResult:
    """Speed of bf16 matrix products relative to fp32 on the CPU."""
    ratio = _matmul_seconds(torch.float32) / _matmul_seconds(torch.bfloat16)
    detail = f"matrix products run {ratio:.1f}x as fast as in fp32"
    if ratio < 1:
        return CheckResult("CPU bf16", "note", detail, "set engine.precision=fp32 for runs without a GPU")
    return CheckResult("CPU bf16", "ok", detail)


def gpus() -> list[CheckResult]:
    """Name, memory and bf16 support of every CUDA device that torch can use."""
    if not torch.cuda.is_available():
        if driver_versions():
            return []  # cuda.py reports why torch can use none
        return [CheckResult("GPU", "note", "none", "runs use the CPU, which is fast enough for the quickstart only")]
    return [_gpu(number) for number in range(torch.cuda.device_count())]


def _gpu(number: int) -> CheckResult:
    properties = torch.cuda.get_device_properties(number)
    detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if properties.major < 8:  # below Ampere, torch emulates bf16
        return CheckResult(f"GPU {number}", "note", f"{detail}, no bf16", "set engine.precision=fp16")
    return CheckResult(f"GPU {number}", "ok", f"{detail}, bf16")


def _matmul_seconds(precision: torch.dtype) -> float:
    """Time of four matrix products after a warm-up."""
    a = torch.ones(1024, 1024, dtype=precision)
    a @ a
    started = time.perf_counter()
    for _ in range(4):
        a @ a
    return time.perf_counter() - started


def driver_versions() -> list[str]:
    """Version of the NVIDIA driver, once per GPU; empty if there is none."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    finished = subprocess.run(query, capture_output=True, text=True, check=False)
    return finished.stdout.split() if finished.returncode == 0 else []


def require_writable_folder(folder: Path) -> None:
    """Raise InputError if no file can be written there."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"--folder {folder}: {error.strerror}; choose a writable folder") from error


def file_system(folder: Path) -> CheckResult:
    """Write and read speed in MB/s, with the page cache dropped where the system allows it."""
    free = shutil.disk_usage(folder).free
    if free < 2 * TEST_BYTES:
        return CheckResult("file system", "missing", f"{folder.resolve()}: {free / 2**20:.0f} MiB free", "make room")
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        written, read = _disk_speeds(file.fileno())
    detail = f"{folder.resolve()}: writes {written:.0f}, reads {read:.0f} MB/s, {free / 2**30:.0f} GiB free"
    if min(written, read) < SLOW:
        return CheckResult(
            "file system", "note", detail, "slow for shards and checkpoints; use a scratch or local disk"
        )
    return CheckResult("file system", "ok", detail)


def _disk_speeds(file: int) -> tuple[float, float]:
    """MB/s of writing and of reading."""
    block = os.urandom(2**20)
    started = time.perf_counter()
    for _ in range(TEST_BYTES // len(block)):
        os.write(file, block)
    os.fsync(file)
    written = time.perf_counter()
    os.posix_fadvise(file, 0, TEST_BYTES, os.POSIX_FADV_DONTNEED)
    os.lseek(file, 0, os.SEEK_SET)
    read_started = time.perf_counter()
    while os.read(file, len(block)):
        pass
    finished = time.perf_counter()
    return TEST_BYTES / 1e6 / (written - started), TEST_BYTES / 1e6 / (finished - read_started)
