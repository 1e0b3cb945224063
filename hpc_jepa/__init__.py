"""HPC-native trainer for Video-JEPA models and the study of their auxiliary objectives."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_jepa.checkpoint.pretrained import load_encoder
    from hpc_jepa.config.run import load_config
    from hpc_jepa.objectives import build_objective
    from hpc_jepa.runs.run_dir import open_run
    from hpc_jepa.types import Latents, TokenGrid, TokenMasks

__version__ = "0.2.0"
__all__ = ["Latents", "TokenGrid", "TokenMasks", "build_objective", "load_config", "load_encoder", "open_run"]

_MODULES = {
    "Latents": "hpc_jepa.types",
    "TokenGrid": "hpc_jepa.types",
    "TokenMasks": "hpc_jepa.types",
    "build_objective": "hpc_jepa.objectives",
    "load_config": "hpc_jepa.config.run",
    "load_encoder": "hpc_jepa.checkpoint.pretrained",
    "open_run": "hpc_jepa.runs.run_dir",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that commands start without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
