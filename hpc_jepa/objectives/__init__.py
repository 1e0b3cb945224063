"""Training objectives: one file each, found by name, combined by listing them."""

from hpc_jepa.objectives.composition import ObjectiveSet, build_objective

__all__ = ["ObjectiveSet", "build_objective"]
