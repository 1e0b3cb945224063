"""Latent dynamics: decode the coming change of the target from a context token."""

import torch
from pydantic import Field
from torch import Tensor, nn

from hpc_jepa.config.strict import Strict
from hpc_jepa.distributed import maximum_over_processes, sum_over_processes, world_size
from hpc_jepa.latents import Latents
from hpc_jepa.objectives.fwm import FactorisedOptions
from hpc_jepa.objectives.hw import HardRegionOptions
from hpc_jepa.objectives.objective import Objective, Setting
from hpc_jepa.objectives.partition import dynamics_width, split
from hpc_jepa.objectives.pooling import mean_over_groups, mean_over_pairs


class LatentDynamicsOptions(Strict):
    """Coefficient of the term and hidden width of its head."""

    weight: float = Field(1.0, ge=0)
    hidden: int = Field(256, gt=0)


class LatentDynamics(Objective[LatentDynamicsOptions]):
    r"""``L_ld = mean over valid pairs of |g(S[t]) - (Y[t+1] - Y[t])|``, target detached, g = Linear-GELU-Linear.

    Rules between objectives: beside ``fwm`` the head reads the dynamics part alone. Beside ``hw`` the pairs of the
    whole batch are weighted by ``softmax(error / temperature)``, detached; the published code computes the weighted
    error without any gradient (B2), so that the term moves nothing.
    """

    name = "ld"
    options_type = LatentDynamicsOptions

    def __init__(self, options: LatentDynamicsOptions, setting: Setting) -> None:
        super().__init__(options, setting)
        self._factorised = setting.companions.get("fwm")
        self._hard_region = setting.companions.get("hw")
        width = setting.latent_width
        if isinstance(self._factorised, FactorisedOptions):
            width = dynamics_width(self._factorised.appearance_ratio, setting)
        self.head = nn.Sequential(
            nn.Linear(width, options.hidden), nn.GELU(), nn.Linear(options.hidden, setting.latent_width)
        )

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``ld``."""
        with_gradient = self._hard_region is None or self.setting.semantics.ld_hw_gradient
        with torch.set_grad_enabled(with_gradient and torch.is_grad_enabled()):
            errors = [
                (self.head(self._input(features)) - change).abs().mean(-1)
                for features, change in zip(self._features(latents), latents.target_change, strict=True)
            ]
            if isinstance(self._hard_region, HardRegionOptions):
                return {"ld": self._hard_mean(errors, latents, self._hard_region.temperature)}
            return {"ld": mean_over_pairs(errors, latents.valid_pairs, latents.masks)}

    def weights(self, step: int) -> dict[str, float]:
        """Constant."""
        return {"ld": self.options.weight}

    def _features(self, latents: Latents) -> tuple[Tensor, ...]:
        return latents.normalised_student if self.setting.semantics.student_norm == "level" else latents.student

    def _input(self, features: Tensor) -> Tensor:
        if isinstance(self._factorised, FactorisedOptions):
            return split(features, self._factorised.appearance_ratio, self.setting).dynamics
        return features

    def _hard_mean(self, errors: list[Tensor], latents: Latents, temperature: float) -> Tensor:
        """Per group the softmax-weighted sum of pair errors, over the pairs of all clips (and processes)."""
        everywhere = self.setting.semantics.batch_statistics == "global"
        pooled = []
        for error, valid in zip(errors, latents.valid_pairs, strict=True):
            hardness = (error.detach() / temperature).masked_fill(valid == 0, -torch.inf)
            highest = hardness.amax()
            if everywhere:
                highest = maximum_over_processes(highest)
            weight = (hardness - highest.clamp(min=-1e30)).exp()
            total = weight.sum()
            if everywhere:
                # Gradients are averaged over processes; each one's share therefore counts world-size fold.
                total = sum_over_processes(total) / world_size()
            pooled.append((weight * error).sum() / total.clamp(min=torch.finfo(total.dtype).tiny))
        return mean_over_groups(pooled, [masks.pairs for masks in latents.masks])
