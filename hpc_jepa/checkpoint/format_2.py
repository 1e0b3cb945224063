"""Upgrade checkpoints of format 2 (release 0.1) while reading: tensor names and manifest keys."""

import re
from typing import Any

RENAMES = (
    (r"\battention_norm\.", "norm1."),
    (r"\bmlp_norm\.", "norm2."),
    (r"\battention\.output\.", "attn.proj."),
    (r"\battention\.", "attn."),
    (r"\b(mlp|input)\.hidden\.", r"\1.fc1."),
    (r"\b(mlp|input)\.output\.", r"\1.fc2."),
    (r"\bpredictor\.input\.", "predictor.embed."),
    (r"\blevel_norms\.", "norms."),
)
"""Patterns in the tensor names of encoder and predictor, and their replacements."""


def upgrade_name(name: str) -> str:
    """The current name of a tensor, with or without a prefix such as ``exp_avg.student.``; current names are kept."""
    if "objectives." in name:
        return name
    for old, new in RENAMES:
        name = re.sub(old, new, name)
    return name


def upgrade_manifest(content: dict[str, Any]) -> dict[str, Any]:
    """The manifest with current keys and tensor names; ``format`` stays 2 since the rank files keep their names."""
    upgraded = {**content, "shapes": {upgrade_name(name): shape for name, shape in content["shapes"].items()}}
    upgraded["data_hashes"] = upgraded.pop("data")
    upgraded["metrics"] = upgraded.pop("figures")
    return upgraded
