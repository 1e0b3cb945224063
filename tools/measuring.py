"""What the benchmarks share: turns of all sides in one run, medians, peak memory, the machine's name, and errors."""

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
    bool, typer.Option("--give-memory-back", help="On a CPU: free memory as other programs do, not as training does.")
]


def quick_form(words: str, **values: Any) -> Any:
    """The option ``--quick``: other defaults for the options named. One that is given wins."""

    def take_as_defaults(context: typer.Context, quick: bool) -> bool:
        if quick:
            context.default_map = values
        return quick

    return typer.Option("--quick", help=words, is_eager=True, callback=take_as_defaults)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What a person can put right is told as the program tells it: in one line, with an exit code of its kind."""
    try:
        yield
    except HpcJepaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error


def require_writable(folder: Path) -> Path:
    """The folder, made where it is not there. Raises InputError where no file can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); give another folder") from error


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def name_of(device: torch.device) -> str:
    """What the last line of a benchmark says of the machine."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {_threads(torch.get_num_threads())}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def milliseconds(work: Work, device: torch.device) -> float:
    """Time of one call, the device idle before and after."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return 1e3 * (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def medians(
    ways: Mapping[str, Work], rounds: int, device: torch.device, advance: Callable[[], None]
) -> dict[str, float]:
    """Median milliseconds of each way. All take turns in every round, so that a noisy machine disturbs all alike.

    One round before those that count loads what is loaded at first use.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, work in ways.items():
            times[name].append(milliseconds(work, device))
        advance()
    return {name: statistics.median(figures[1:]) for name, figures in times.items()}


def release_freed_memory() -> None:
    """Memory that the process freed but keeps would hide what it asks for next; only glibc gives it back."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class PeakMemory:
    """Highest number of bytes in use while entered, above that at its start."""

    def __init__(self, device: torch.device) -> None:
        self.bytes = 0
        self._device = device

    @contextmanager
    def watching(self) -> Iterator["PeakMemory"]:
        """On a GPU the allocator knows; on a CPU the kernel keeps the high-water mark of the process."""
        self._forget()
        before = self._peak()  # all that is in use
        yield self
        self.bytes = self._peak() - before

    def _forget(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else _status("VmHWM")


def peak_mb(work: Work, device: torch.device) -> float:
    """Memory that one call takes at its peak, not counting what an earlier call of it keeps."""
    work()
    release_freed_memory()
    with PeakMemory(device).watching() as peak:
        work()
    return peak.bytes / 1e6


def _status(field: str) -> int:
    """Bytes of one line of the process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
