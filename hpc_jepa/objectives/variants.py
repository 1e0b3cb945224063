"""All variants that can be trained: compositions and primitives, described by their configuration and docstrings."""

import inspect
from typing import Any, NamedTuple

import torch

from hpc_jepa.config.loading import merge_files
from hpc_jepa.config.masking import MaskingConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.io.resources import list_resources
from hpc_jepa.objectives.composition import build_objective
from hpc_jepa.objectives.registry import parse_options, primitives, resolve_choices
from hpc_jepa.types import TokenGrid

MIXED = frozenset({
    "baseline", "motion_guided", "amg", "hw", "delta", "ld", "hw_ld", "fwm", "fwm_ld", "fwm_hw_ld", "spectral", "ltc",
    "ac", "ac_hw", "fac", "combo",
})  # fmt: skip
UCF101 = frozenset({
    "baseline", "motion_guided", "future_predictive", "motion_future", "kinematic", "kinematic_0_1", "kinematic_huber",
    "kinematic_accel", "kinematic_anneal", "kinematic_split", "velgate", "hamiltonian", "sigreg", "sigreg_no_ema",
})  # fmt: skip
"""Variants that the paper trained in each regime. Here all of them can be trained in both, with the same weights."""

PAPER_WIDTH, PAPER_LEVELS, PAPER_GRID = 768, 4, TokenGrid(8, 14, 14)


class VariantInfo(NamedTuple):
    """Description of one variant.

    families: one letter per family of objectives, M for masking. head_parameters: at the paper's ViT-B with four
    levels. published_in: regimes of the paper.
    """

    name: str
    families: str
    options: dict[str, dict[str, Any]]
    masking: dict[str, Any]
    ema: str
    head_parameters: int
    published_in: list[str]


def variant_names() -> list[str]:
    """All compositions and primitives."""
    return sorted(list_resources("configs/objective").keys() | (set(primitives()) - {"base"}))


def describe_variant(name: str, semantics: str = "corrected") -> VariantInfo:
    """Description of a variant. Raises InputError with the nearest name for an unknown name."""
    options = parse_options(resolve_choices(name))
    path = list_resources("configs/objective").get(name)
    settings = merge_files([path]).values if path else {}
    masking = settings.get("masking", {})
    families = ("M" if masking else "") + "".join(primitives()[part].families for part in options)
    return VariantInfo(
        name=name,
        families="".join(dict.fromkeys(families)),
        options={part: chosen.model_dump(mode="json") for part, chosen in options.items()},
        masking=MaskingConfig.model_validate(masking).model_dump(mode="json", exclude_defaults=True),
        ema=settings.get("ema", "always"),
        head_parameters=_head_parameters(name, semantics),
        published_in=[regime for regime, ran in (("mixed", MIXED), ("ucf101", UCF101)) if name in ran],
    )


def formulas(name: str) -> dict[str, str]:
    """Title and formula of every part of a variant, from the docstrings."""
    parts = ["base", *(choice.name for choice in resolve_choices(name))]
    return {f"{part}: {primitives()[part].title}": inspect.getdoc(primitives()[part]) or "" for part in parts}


def _head_parameters(name: str, semantics: str) -> int:
    with torch.device("meta"):
        objective = build_objective(
            name, width=PAPER_WIDTH, levels=PAPER_LEVELS, grid=PAPER_GRID, semantics=Semantics.of(semantics)
        )
    return sum(parameter.numel() for parameter in objective.parameters())
