"""Processes that parts start: Python modules, commands, and a query of the visible GPUs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import hpc_jepa
from hpc_jepa.cli.gpu_check.part import SkipPartError
from hpc_jepa.errors import HpcJepaError

CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
PROBE = """
import json, torch
cuda = torch.cuda.is_available()
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"names": [g.name for g in gpus], "memory": [g.total_memory for g in gpus],
                  "torch": torch.__version__, "cuda": torch.version.cuda}))
"""


class Devices(NamedTuple):
    """Visible GPUs by name, their memory in bytes, the version of torch, and of the CUDA it was built for."""

    names: list[str]
    memory: list[int]
    torch: str
    cuda: str | None


@cache
def visible_devices() -> Devices:
    """GPUs that torch can use, from a short-lived process: the GPU and its memory stay free for the parts."""
    finished = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    return Devices(**json.loads(finished.stdout.splitlines()[-1]))


def checkout() -> Path:
    """Root of the checkout. Skips the part if the package was installed without ``tests/`` and ``tools/``."""
    root = Path(hpc_jepa.__file__).parents[1]
    if not (root / "tests").is_dir() or not (root / "tools").is_dir():
        raise SkipPartError("needs a checkout of the repository: tests/ and tools/ are not in the wheel")
    return root


def run_command(command: Sequence[str], environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Standard output of a command, which is also printed. Raises HpcJepaError with its last line if it fails."""
    finished = subprocess.run(
        command, env={**os.environ, **(environment or {})}, cwd=cwd, capture_output=True, text=True, check=False
    )
    print(finished.stdout, finished.stderr, sep="\n", flush=True)
    if finished.returncode:
        raise HpcJepaError(
            f"{_named(command)}: exit code {finished.returncode}: {last_line(finished.stdout + finished.stderr)}"
        )
    return finished.stdout


def json_lines(command: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """The JSON objects that a command prints, one a line, as they come; other lines are printed.

    Raises HpcJepaError after the last one if the command fails.
    """
    with subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
            else:
                print(line, end="", flush=True)
                last = line.strip() or last
    if process.returncode:
        raise HpcJepaError(f"{_named(command)}: exit code {process.returncode}: {last}")


def last_line(output: str) -> str:
    """The last line that is not empty, at most 200 characters of it."""
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "no output"


def module(name: str, *arguments: str) -> list[str]:
    """Command that runs a Python module with this interpreter."""
    return [sys.executable, "-m", name, *arguments]


def _named(command: Sequence[str]) -> str:
    """A command in short: its program or script, or the module after ``-m``."""
    words = list(command)
    return words[2] if words[1:2] == ["-m"] else Path(words[1] if words[0] == sys.executable else words[0]).name
