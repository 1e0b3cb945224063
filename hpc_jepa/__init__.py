"""HPC-native trainer for Video-JEPA models and the study of their auxiliary objectives."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_jepa.checkpoint.frozen import load_encoder as load_encoder

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """``hpc_jepa.load_encoder`` for notebooks; imported when asked for, so that commands start without torch."""
    if name == "load_encoder":
        from hpc_jepa.checkpoint.frozen import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
