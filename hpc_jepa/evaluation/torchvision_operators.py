"""Make torchvision importable beside a CPU build of torch whose ABI its compiled operators do not match."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

SCHEMAS = ("nms", "qnms")


@cache
def register_torchvision_operators() -> torch.library.Library | None:
    """Register the operators torchvision expects, if its own library does not load. Call before importing timm or
    transformers.

    torchvision's import fails if these operators are unknown to torch; nothing here calls them. They exist as long as
    the returned library, which the cache of this function keeps alive.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, SCHEMAS[0]):
        return None
    try:
        torch.ops.load_library(Path(spec.origin).parent / "_C.so")  # type: ignore[no-untyped-call]
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in SCHEMAS:
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        return library
    return None
