"""HPC-native trainer for Video-JEPA models and the study of their auxiliary objectives."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_jepa.checkpoint.frozen import load_encoder
    from hpc_jepa.runs.run_dir import open_run

__version__ = "0.2.0"
__all__ = ["load_encoder", "open_run"]

_MODULES = {"load_encoder": "hpc_jepa.checkpoint.frozen", "open_run": "hpc_jepa.runs.run_dir"}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that commands start without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
