#!/usr/bin/env python3
"""Check that every extra resolves with its constraints on Linux x86_64, from the package index's metadata alone.

    python tools/check_install.py      CPU, CUDA 12 and CUDA 13, each for the oldest Python 3.11 and 3.12

uv resolves setup.py as pip would, without downloading PyTorch or DALI. All packages must also be pinned, except those
of CUDA, which PyTorch pins itself. The CPU build of PyTorch is not on the public index: its requirements are below.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import typer
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

CONSTRAINTS = {"cpu": "constraints.txt", "cuda12": "constraints-cuda12.txt", "cuda13": "constraints.txt"}
"""Constraints file of each extra that selects a build of DALI."""

PYTHONS = ("3.11", "3.12")

COMMON_EXTRAS = ("quickstart", "slurm", "remote", "encoders", "text", "docs", "wandb", "mlflow", "trackio", "test")

UNPINNED = ("nvidia-", "cuda-", "setuptools", "wheel")
"""Packages that PyTorch's CUDA build brings with it, and build tools."""

CPU_TORCH = ["filelock", "typing-extensions>=4.10", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2", "fsspec>=0.8.5"]
"""Requirements of PyTorch's CPU build (without setuptools), from the metadata of its wheel."""


class ResolutionError(Exception):
    """The requirements contradict each other."""


def resolve(requirements: Path, extra: str, constraints: Path, python: str) -> list[Requirement]:
    """All packages, with versions, that an installation of ``requirements`` (a setup.py) with ``extra`` selects.

    Raises ResolutionError with the explanation of uv.
    """
    extras = [f"--extra={name}" for name in (extra, *COMMON_EXTRAS)]
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "uv.toml")
        settings.write_text(_cpu_build(constraints) if extra == "cpu" else "")
        finished = _uv(python, requirements, *extras, f"--constraint={constraints}", f"--config-file={settings}")
    if finished.returncode:
        raise ResolutionError(finished.stderr.strip())
    return [Requirement(line) for line in finished.stdout.splitlines()]


def unpinned(packages: list[Requirement], constraints: Path) -> list[str]:
    """Packages without a pin in the constraints."""
    pinned = {_plain(requirement.name) for requirement in _pins(constraints)}
    names = [_plain(package.name) for package in packages]
    return [name for name in names if name not in pinned and not name.startswith(UNPINNED)]


def index_is_reachable() -> bool:
    """Whether uv is installed and finds a package that has no requirements."""
    return shutil.which(_uv_command()) is not None and _uv("3.11", "-", text="packaging").returncode == 0


def main() -> None:
    """Print one line per extra and Python. Exit code 1 if one does not resolve; 0 where no index is reachable."""
    if not index_is_reachable():
        typer.echo("skipped: uv is not installed, or it reaches no package index")
        return
    combinations = list(product(CONSTRAINTS, PYTHONS))
    with ThreadPoolExecutor(len(combinations)) as pool:  # each waits for the index most of the time
        problems = list(pool.map(_problem, *zip(*combinations, strict=True)))
    for (extra, python), problem in zip(combinations, problems, strict=True):
        typer.echo(f"{extra}, Python {python}, {CONSTRAINTS[extra]}: {problem or 'resolves'}")
    raise typer.Exit(any(problems))


def _problem(extra: str, python: str) -> str | None:
    constraints = ROOT / CONSTRAINTS[extra]
    try:
        missing = unpinned(resolve(ROOT / "setup.py", extra, constraints, python), constraints)
    except ResolutionError as error:
        return str(error)
    return f"not pinned: {', '.join(missing)}" if missing else None


def _uv(python: str, source: Path | str, *options: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    target = [f"--python-version={python}", "--python-platform=x86_64-manylinux_2_28"]
    output = ["--quiet", "--no-header", "--no-annotate"]
    command = [_uv_command(), "pip", "compile", *target, *output, *options, str(source)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=_environment())


def _uv_command() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def _environment() -> dict[str, str]:
    """uv does not read pip's variable for the index."""
    index = os.environ.get("PIP_INDEX_URL")
    return os.environ | ({"UV_DEFAULT_INDEX": index} if index else {})


def _cpu_build(constraints: Path) -> str:
    """Settings of uv that replace the metadata of PyTorch's CUDA build."""
    (version,) = [str(pin.specifier).removeprefix("==") for pin in _pins(constraints) if pin.name == "torch"]
    return f'dependency-metadata = [{{ name = "torch", version = "{version}", requires-dist = {CPU_TORCH} }}]\n'


def _pins(constraints: Path) -> Iterator[Requirement]:
    for line in constraints.read_text().splitlines():
        if line.startswith("--constraint "):
            yield from _pins(constraints.parent / line.removeprefix("--constraint "))
        elif line and not line.startswith("#"):
            yield Requirement(line)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


if __name__ == "__main__":
    typer.run(main)
