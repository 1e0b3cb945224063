"""Let packages import torchvision beside a CPU build of torch, which its compiled operators do not fit."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

SCHEMAS = ("nms", "qnms")


@cache
def register_torchvision_operators() -> torch.library.Library | None:
    """Before timm or transformers are imported: where torchvision's own library does not load, name what it registers.

    torchvision describes these operators when it is imported, and fails where nobody has named them. They are never
    called here. The names last as long as the returned object, which this function keeps.
    """
    found = find_spec("torchvision")
    if found is None or found.origin is None or hasattr(torch.ops.torchvision, SCHEMAS[0]):
        return None
    try:
        torch.ops.load_library(Path(found.origin).parent / "_C.so")  # type: ignore[no-untyped-call]
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in SCHEMAS:
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        return library
    return None
