"""Shared by the benchmarks: interleaved timing, medians, peak memory, device name, one-line errors."""

import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hpc_jepa.errors import HpcJepaError, InputError

Work = Callable[[], object]
GiveMemoryBack = Annotated[
    bool, typer.Option("--give-memory-back", help="On a CPU: return freed memory to the system, unlike training.")
]


def quick_option(help_text: str, **defaults: Any) -> Any:
    """Option ``--quick``: other defaults for the named options; explicit values win."""

    def use_defaults(context: typer.Context, quick: bool) -> bool:
        if quick:
            context.default_map = defaults
        return quick

    return typer.Option("--quick", help=help_text, is_eager=True, callback=use_defaults)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print expected errors like ``hpc-jepa``: one line, with their exit code."""
    try:
        yield
    except HpcJepaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error


def require_writable(folder: Path) -> Path:
    """Create the folder if needed. Raises InputError if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Name of the GPU, or number of CPU threads."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {_threads(torch.get_num_threads())}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def milliseconds(work: Work, device: torch.device) -> float:
    """Time of one call, synchronised before and after."""
    _synchronise(device)
    started = time.perf_counter()
    work()
    _synchronise(device)
    return 1e3 * (time.perf_counter() - started)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def medians(
    sides: Mapping[str, Work], rounds: int, device: torch.device, advance: Callable[[], None]
) -> dict[str, float]:
    """Median milliseconds of each side. Sides alternate in every round, so that noise affects all of them.

    A warm-up round is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, work in sides.items():
            times[name].append(milliseconds(work, device))
        advance()
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def release_freed_memory() -> None:
    """Return freed memory to the system (glibc only), so that later allocations are visible in the peak."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class PeakMemory:
    """Peak memory in use while watching, above that at the start."""

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._device = device

    @contextmanager
    def watching(self) -> Iterator["PeakMemory"]:
        """GPU: statistics of the allocator. CPU: high-water mark of the process."""
        self._reset()
        before = self._peak()  # current use
        yield self
        self.bytes = self._peak() - before

    def _reset(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else _status("VmHWM")


def peak_mb(work: Work, device: torch.device) -> float:
    """Peak memory of one call in MB, without what an earlier call keeps."""
    work()
    release_freed_memory()
    with PeakMemory(device).watching() as peak:
        work()
    return peak.bytes / 1e6


def _status(field: str) -> int:
    """One field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
