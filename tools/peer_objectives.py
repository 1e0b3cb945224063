"""Auxiliary terms of the study's code on our latents: the branches of its training step that add them."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peer_fragments import PeerStep, branch_on
from torch import Tensor, nn

from hpc_jepa.objectives import ObjectiveSet
from hpc_jepa.objectives.sigreg import MAX_FREQUENCY
from hpc_jepa.types import Latents

STEP = 20_000
"""A step at which all our terms have a weight; theirs are constant."""

COEFFICIENTS = {
    "ac": "ac_coeff",
    "delta": "delta_coeff",
    "fwm_orthogonality": "fwm_orth_coeff",
    "fwm_static": "fwm_static_coeff",
    "hamiltonian": "hamiltonian_coeff",
    "hw": "hw_coeff",
    "kinematic": "kinematic_coeff",
    "ld": "ld_coeff",
    "ltc": "ltc_coeff",
    "sigreg": "sigreg_coeff",
    "spectral": "spectral_coeff",
    "velgate": "velgate_coeff",
}
"""Their name for the weight of each of our terms."""

SETTINGS = {
    "ac_target_dim": 3,
    "epoch": 0,
    "fwm_app_ratio": 0.5,
    "hamiltonian_dt": 0.1,
    "has_cls_first": False,
    "hw_temp": 1.0,
    "kinematic_anneal": False,
    "kinematic_split_ratio": 1.0,
    "kinematic_type": "l1",
    "logger": None,
    "loss_exp": 1.0,
    "ltc_margin": 0.5,
    "num_epochs": 1,
    "velgate_percentile": 0.5,
}
"""Values of their configurations and defaults, equal to ours."""


class PeerObjectives:
    """Auxiliary terms of the code in ``folder``, with our heads, so that both sides compute the same.

    Raises InputError if there is no such code or it has no such terms.
    """

    def __init__(self, folder: Path) -> None:
        self._step = PeerStep(folder)
        self._step.require(branch_on("_coeff"), "use a checkout of the study's code: V-JEPA 2 has no objectives")

    def has_terms_of(self, objective: ObjectiveSet) -> bool:
        """Whether that code has all terms of an objective; SIGReg is in a separate package."""
        return all(self._has(term) for term in _auxiliary(objective))

    def loss(self, objective: ObjectiveSet, latents: Latents) -> Callable[[], Tensor]:
        """Function that computes the weighted sum of its auxiliary terms."""
        weights = {COEFFICIENTS[term]: weight for term, weight in _auxiliary(objective).items()}
        fragment = self._step.every(
            branch_on("_coeff"),
            **dict.fromkeys(COEFFICIENTS.values(), 0.0) | weights | SETTINGS,
            **_as_theirs(latents),
            apply_masks=self._step.module("src.masks.utils").apply_masks,
            **self._heads(objective.auxiliary),
        )
        return lambda: torch.as_tensor(fragment()["loss"])  # a plain number if no term is active

    def _has(self, term: str) -> bool:
        if term not in COEFFICIENTS or (term == "sigreg" and find_spec("lejepa") is None):
            return False
        return self._step.has(branch_on(COEFFICIENTS[term]))

    def _heads(self, ours: nn.ModuleDict) -> dict[str, Any]:
        """Our heads under their names; the energy with their interface."""
        energy = None
        if "hamiltonian" in ours:
            energy = self._step.module("app.vjepa_2_1.models.hamiltonian").HamiltonianNN(dim=1)
            energy.net = ours["hamiltonian"].energy
        return {
            "action_head": ours["ac"].head if "ac" in ours else None,
            "dyn_head": ours["ld"].head if "ld" in ours else None,
            "hamiltonian_net": energy,
            "sigreg_loss_fn": _normality_test(ours["sigreg"]) if "sigreg" in ours else None,
        }


def _auxiliary(objective: ObjectiveSet) -> dict[str, float]:
    """Weight of every auxiliary term."""
    return {term: weight for term, weight in objective.weights(STEP).items() if term not in ("prediction", "context")}


def _as_theirs(latents: Latents) -> dict[str, Any]:
    """Latents under the names of their step; lists have one entry per clip length."""
    frames, rows = latents.pixels.shape[2:4]
    return {
        "clips": [latents.pixels],
        "h": [latents.target],
        "loss": 0,
        "masks_enc": [[group.context for group in latents.masks]],
        "masks_pred": [[group.target for group in latents.masks]],
        "model_tubelet_size": frames // latents.grid.time,
        "patch_size": rows // latents.grid.height,
        "z_enc": [list(latents.student)],
        "z_pred": [list(latents.prediction)],
    }


def _normality_test(ours: Any) -> nn.Module:
    """The statistic of the lejepa package, configured like ours."""
    univariate, multivariate = import_module("lejepa.univariate"), import_module("lejepa.multivariate")
    projected_test = univariate.EppsPulley(t_max=MAX_FREQUENCY, n_points=ours.options.frequencies)
    test: nn.Module = multivariate.SlicingUnivariateTest(projected_test, num_slices=ours.options.projections)
    return test
