"""Other people's code to measure against: where a checkout keeps it, and what stands in for packages it only names."""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

from hpc_jepa.errors import InputError


def import_root(folder: Path, *wanted: str) -> Path:
    """``folder``, a checkout of facebookresearch/vjepa2, or its ``vjepa2``, where the study's code keeps its own.

    Raises InputError where neither holds one of the files ``wanted``.
    """
    for root in (folder, folder / "vjepa2"):
        if any((root / path).is_file() for path in wanted):
            return root
    names = " or ".join(wanted)
    raise InputError(f"{folder}: no {names} here or in vjepa2/; give a checkout of the code to compare with")


def peer_module(root: Path, name: str) -> ModuleType:
    """A module of a checkout, imported into this process. Raises InputError where it, or what it needs, is missing."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
        sys.meta_path.insert(0, StandIns(("torchvision",)))
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{root}: {name} cannot be imported ({error}); give a whole checkout, install its packages"
        ) from error


class StandIns(MetaPathFinder, Loader):
    """Modules of some packages that let themselves be imported and do nothing."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """A module of the named packages, whatever its name."""
        if any(f"{name}.".startswith(f"{package}.") for package in self._packages):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module that has every attribute."""
        return MagicMock(name=spec.name, __path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""
