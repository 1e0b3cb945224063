"""Import other people's code for comparisons: find it in a checkout, and replace packages it does not need."""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

from hpc_jepa.errors import InputError


def import_root(folder: Path, *wanted: str) -> Path:
    """``folder`` (a checkout of facebookresearch/vjepa2) or ``folder/vjepa2`` (of the study's code).

    Raises InputError if neither contains one of the files ``wanted``.
    """
    for root in (folder, folder / "vjepa2"):
        if any((root / path).is_file() for path in wanted):
            return root
    names = " or ".join(wanted)
    raise InputError(f"{folder}: no {names} here or in vjepa2/; choose a checkout of the code to compare with")


def peer_module(root: Path, name: str) -> ModuleType:
    """Import a module of a checkout. Raises InputError if it or a dependency is missing."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
        sys.meta_path.insert(0, StandIns(("torchvision",)))
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{root}: {name} cannot be imported ({error}); use a complete checkout and install its packages"
        ) from error


class StandIns(MetaPathFinder, Loader):
    """Importer of mock modules for the named packages."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Match any module of the named packages."""
        if any(f"{name}.".startswith(f"{package}.") for package in self._packages):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A mock with every attribute."""
        return MagicMock(name=spec.name, __path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to execute."""
