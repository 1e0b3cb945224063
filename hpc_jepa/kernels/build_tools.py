"""The C compiler and the Python headers with which Triton builds the launcher of its first kernel."""

import os
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpc_jepa.errors import HpcJepaError

INSTALL = "apt-get install gcc python3-dev, dnf install gcc python3-devel, or load a compiler module of the cluster"


@dataclass(frozen=True)
class BuildTools:
    """Path of the compiler and of Python.h; None if not found."""

    compiler: str | None
    python_h: Path | None

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the tools that Triton needs and that were not found."""
        parts = {"a C compiler (gcc, clang or $CC)": self.compiler, "Python.h": self.python_h}
        return tuple(name for name, found in parts.items() if found is None)


def find_build_tools(environment: Mapping[str, str], headers: Path) -> BuildTools:
    """Search as Triton's runtime/build.py does: $CC, else gcc, else clang; ``headers``, $CPATH, $C_INCLUDE_PATH."""
    names = [environment["CC"]] if "CC" in environment else ["gcc", "clang"]
    compilers = (shutil.which(name, path=environment.get("PATH", os.defpath)) for name in names)
    variables = [environment.get(name, "") for name in ("CPATH", "C_INCLUDE_PATH")]
    folders = [headers, *(Path(folder) for value in variables for folder in value.split(os.pathsep) if folder)]
    files = (folder / "Python.h" for folder in folders)
    return BuildTools(
        compiler=next((path for path in compilers if path), None),
        python_h=next((file for file in files if file.is_file()), None),
    )


def installed_build_tools() -> BuildTools:
    """Those that this interpreter would use."""
    return find_build_tools(os.environ, Path(sysconfig.get_path("include", scheme="posix_prefix")))


def require_build_tools(tools: BuildTools | None = None) -> None:
    """Raise HpcJepaError if Triton cannot build launchers on this node. Call before the first step of a GPU run."""
    missing = (tools or installed_build_tools()).missing
    if missing:
        raise HpcJepaError(f"Triton needs {' and '.join(missing)} on every GPU node, to start kernels; {INSTALL}")
