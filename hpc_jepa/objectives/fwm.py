"""Factorised world model: some channels are constant in time and uncorrelated with the others."""

import torch
from pydantic import Field
from torch import Tensor, nn

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.strict import Strict
from hpc_jepa.distributed import sum_over_processes, world_size
from hpc_jepa.objectives.channel_split import split_channels, split_widths
from hpc_jepa.objectives.objective import Objective, ObjectiveContext
from hpc_jepa.objectives.pairs import context_pairs
from hpc_jepa.objectives.pooling import mean_over_pairs
from hpc_jepa.objectives.student_features import next_tubelet, student_features
from hpc_jepa.types import Latents


class FactorisedOptions(Strict):
    """Coefficients of the two penalties and the fraction of channels called appearance."""

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
    min_tubelets = 2
    options_type = FactorisedOptions
    handles_padding = True

    @classmethod
    def batch_statistic(cls, options: FactorisedOptions, config: RunConfig) -> str | None:
        """The covariance, unless that of each process is meant."""
        return "the covariance" if config.semantics.batch_statistics == "global" else None

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Terms ``fwm_static`` and ``fwm_orthogonality``."""
        features = student_features(latents, self.ctx)
        parts = [split_channels(group, self.options.appearance_ratio, self.ctx) for group in features]
        changes = [
            (next_tubelet(part.appearance, masks.next_in_context) - part.appearance).abs().mean(-1)
            for part, masks in zip(parts, latents.masks, strict=True)
        ]
        real = latents.real_context or (None,) * len(parts)
        covariances = [
            self._covariance(part.appearance, part.dynamics, group) for part, group in zip(parts, real, strict=True)
        ]
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

    def _covariance(self, appearance: Tensor, dynamics: Tensor, real: Tensor | None) -> Tensor:
        """[B, K, Da], [B, K, Dz] -> [Da, Dz] in fp32, over the tokens of this process or of all processes.

        real: [B, K] 1 for tokens that count, 0 for padding; None: all count.
        """
        is_global = self.ctx.semantics.batch_statistics == "global"
        with torch.autocast(appearance.device.type, enabled=False):
            rows = appearance.flatten(0, 1).float()
            columns = dynamics.flatten(0, 1).float()
            if real is not None:
                return self._covariance_without_padding(rows, columns, real.flatten()[:, None])
            count = rows.shape[0] * (world_size() if is_global else 1)
            product = _centred(rows, count, is_global).T @ _centred(columns, count, is_global)
            return (sum_over_processes(product) if is_global else product) / max(count - 1, 1)

    def _covariance_without_padding(self, rows: Tensor, columns: Tensor, real: Tensor) -> Tensor:
        """[n, Da], [n, Dz] -> [Da, Dz], over the rows where ``real`` [n, 1] is 1."""
        is_global = self.ctx.semantics.batch_statistics == "global"

        def total(x: Tensor) -> Tensor:
            return sum_over_processes(x) if is_global else x

        count = total(real.sum())
        means = [total((x * real).sum(0)) / count.clamp(min=1) for x in (rows, columns)]
        product = ((rows - means[0]) * real).T @ (columns - means[1])
        return total(product) / (count - 1).clamp(min=1)


class DynamicsHead(nn.Sequential):
    """Linear-GELU-Linear on the dynamics part of the features if the run also has ``fwm``, else on all channels."""

    def __init__(self, ctx: ObjectiveContext, hidden: int, outputs: int) -> None:
        factorised = ctx.other_objectives.get("fwm")
        ratio = factorised.appearance_ratio if isinstance(factorised, FactorisedOptions) else None
        width = ctx.latent_width if ratio is None else split_widths(ratio, ctx)[1]
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs))
        self._ctx, self._ratio = ctx, ratio

    def forward(self, features: Tensor) -> Tensor:
        """Features [.., D] -> [.., outputs]."""
        if self._ratio is not None:
            features = split_channels(features, self._ratio, self._ctx).dynamics
        for layer in self:
            features = layer(features)
        return features


def _centred(rows: Tensor, count: int, is_global: bool) -> Tensor:
    total = rows.sum(0)
    return rows - (sum_over_processes(total) if is_global else total) / count
