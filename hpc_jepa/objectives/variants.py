"""What there is to train with: every composition and primitive, described from its own configuration and docstring."""

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

MIXED = frozenset(
    (
        "baseline",
        "motion_guided",
        "amg",
        "hw",
        "delta",
        "ld",
        "hw_ld",
        "fwm",
        "fwm_ld",
        "fwm_hw_ld",
        "spectral",
        "ltc",
        "ac",
        "ac_hw",
        "fac",
        "combo",
    )
)
UCF101 = frozenset(
    (
        "baseline",
        "motion_guided",
        "future_predictive",
        "motion_future",
        "kinematic",
        "kinematic_0_1",
        "kinematic_huber",
        "kinematic_accel",
        "kinematic_anneal",
        "kinematic_split",
        "velgate",
        "hamiltonian",
        "sigreg",
        "sigreg_no_ema",
    )
)
"""Variants that the paper ran in each regime. All of them run in both here, with the same weights."""

PAPER_WIDTH, PAPER_LEVELS, PAPER_GRID = 768, 4, TokenGrid(8, 14, 14)


class VariantInfo(NamedTuple):
    """One variant. head_parameters: at the paper's ViT-B with four levels. published_in: regimes of the paper."""

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
    """Raises InputError, naming the nearest, for an unknown name."""
    options = parse_options(resolve_choices(name))
    compositions = list_resources("configs/objective")
    settings = merge_files([compositions[name]]).values if name in compositions else {}
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
