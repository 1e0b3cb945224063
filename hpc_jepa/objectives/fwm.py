"""Factorised world model: one part of the channels stays still in time, and the two parts do not co-vary."""

import torch
from pydantic import Field
from torch import Tensor

from hpc_jepa.config.strict import Strict
from hpc_jepa.distributed import sum_over_processes, world_size
from hpc_jepa.latents import Latents
from hpc_jepa.objectives.features import one_later, student_features
from hpc_jepa.objectives.objective import Objective, Setting
from hpc_jepa.objectives.pairs import context_pairs
from hpc_jepa.objectives.partition import split, widths
from hpc_jepa.objectives.pooling import mean_over_pairs


class FactorisedOptions(Strict):
    """Coefficients of the two penalties and the share of channels called appearance."""

    static_weight: float = Field(0.05, ge=0)
    orthogonality_weight: float = Field(0.01, ge=0)
    appearance_ratio: float = Field(0.5, gt=0, lt=1)


class Factorised(Objective[FactorisedOptions]):
    r"""``L_static = mean over valid pairs of |A[t+1] - A[t]|`` on the appearance part A of the student features, and
    ``L_orth = mean of X²`` with ``X = cov(A, Z)`` over all context tokens, Z the dynamics part.
    """

    name = "fwm"
    title = "Factorised world model"
    families = "F"
    least_tubelets = 2
    options_type = FactorisedOptions

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Terms ``fwm_static`` and ``fwm_orthogonality``."""
        features = student_features(latents, self.setting)
        parts = [split(group, self.options.appearance_ratio, self.setting) for group in features]
        changes = [
            (one_later(part.appearance, masks.next_in_context) - part.appearance).abs().mean(-1)
            for part, masks in zip(parts, latents.masks, strict=True)
        ]
        covariances = [self._covariance(part.appearance, part.dynamics) for part in parts]
        return {
            "fwm_static": mean_over_pairs(changes, context_pairs(latents)),
            "fwm_orthogonality": torch.stack([covariance.square().mean() for covariance in covariances]).mean(),
        }

    def weights(self, step: int) -> dict[str, float]:
        """Constant."""
        return {
            "fwm_static": self.options.static_weight,
            "fwm_orthogonality": self.options.orthogonality_weight,
        }

    def _covariance(self, appearance: Tensor, dynamics: Tensor) -> Tensor:
        """[B, K, Da], [B, K, Dz] -> [Da, Dz] in fp32, over the tokens of this process or of all of them."""
        everywhere = self.setting.semantics.batch_statistics == "global"
        with torch.autocast(appearance.device.type, enabled=False):
            rows = appearance.flatten(0, 1).float()
            columns = dynamics.flatten(0, 1).float()
            count = rows.shape[0] * (world_size() if everywhere else 1)
            product = _centred(rows, count, everywhere).T @ _centred(columns, count, everywhere)
            return (sum_over_processes(product) if everywhere else product) / max(count - 1, 1)


class DynamicsSlice:
    """What a dynamics head reads: the dynamics part beside ``fwm``, all channels otherwise."""

    def __init__(self, setting: Setting) -> None:
        factorised = setting.companions.get("fwm")
        self._setting = setting
        self._ratio = factorised.appearance_ratio if isinstance(factorised, FactorisedOptions) else None
        self.width = setting.latent_width if self._ratio is None else widths(self._ratio, setting).dynamics

    def __call__(self, features: Tensor) -> Tensor:
        """Features [.., D] -> [.., width]."""
        return features if self._ratio is None else split(features, self._ratio, self._setting).dynamics


def _centred(rows: Tensor, count: int, everywhere: bool) -> Tensor:
    total = rows.sum(0)
    return rows - (sum_over_processes(total) if everywhere else total) / count
