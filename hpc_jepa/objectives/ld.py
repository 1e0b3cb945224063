"""Latent dynamics: decode the coming change of the target from a context token."""

import torch
from pydantic import Field
from torch import Tensor, nn

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.strict import Strict
from hpc_jepa.distributed import maximum_over_processes
from hpc_jepa.latents import Latents
from hpc_jepa.objectives.features import student_features
from hpc_jepa.objectives.fwm import DynamicsSlice
from hpc_jepa.objectives.hw import HardRegionOptions
from hpc_jepa.objectives.objective import Objective, Setting, TermOptions
from hpc_jepa.objectives.pairs import PairKind, Pairs, forecast_refusal, target_changes, temporal_pairs
from hpc_jepa.objectives.pooling import mean_over_groups, mean_over_pairs, shared_count


class LatentDynamicsOptions(TermOptions):
    """Coefficient of the term, hidden width of its head, which pairs it decodes."""

    weight: float = Field(1.0, ge=0)
    hidden: int = Field(256, gt=0)
    pairs: PairKind = "context"


class LatentDynamics(Objective[LatentDynamicsOptions]):
    r"""``L_ld = mean over valid pairs of |g(S[t]) - (Y[t+1] - Y[t])|``, target detached, g = Linear-GELU-Linear.

    Rules between objectives: beside ``fwm`` the head reads the dynamics part alone. Beside ``hw`` the pairs of the
    whole batch are weighted by ``softmax(error / temperature)``, detached; the published code computes the weighted
    error without any gradient (B2), so that the term moves nothing. ``pairs: forecast`` asks for the change beyond the
    end of the context, which nothing in it has seen (B12).
    """

    name = "ld"
    title = "Latent dynamics"
    families = "D"
    least_tubelets = 2
    options_type = LatentDynamicsOptions

    def __init__(self, options: LatentDynamicsOptions, setting: Setting) -> None:
        super().__init__(options, setting)
        self._hard_region = setting.companions.get("hw")
        self._dynamics = DynamicsSlice(setting)
        self.head = nn.Sequential(
            nn.Linear(self._dynamics.width, options.hidden), nn.GELU(), nn.Linear(options.hidden, setting.latent_width)
        )

    @classmethod
    def refusal(cls, options: Strict, config: RunConfig) -> str | None:
        """Forecasting needs masks that leave something to forecast."""
        reason = forecast_refusal(options.pairs, config) if isinstance(options, LatentDynamicsOptions) else None
        return reason or super().refusal(options, config)

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``ld``."""
        with_gradient = self._hard_region is None or self.setting.semantics.ld_hw_gradient
        pairs = temporal_pairs(self.options.pairs, latents, self.setting)
        changes = latents.target_change if self.options.pairs == "context" else target_changes(latents, pairs)
        with torch.set_grad_enabled(with_gradient and torch.is_grad_enabled()):
            errors = [
                (self.head(self._dynamics(student)) - change).abs().mean(-1)
                for student, change in zip(student_features(latents, self.setting), changes, strict=True)
            ]
            if isinstance(self._hard_region, HardRegionOptions):
                return {"ld": self._hard_mean(errors, pairs, self._hard_region.temperature)}
            return {"ld": mean_over_pairs(errors, pairs)}

    def _hard_mean(self, errors: list[Tensor], pairs: tuple[Pairs, ...], temperature: float) -> Tensor:
        """Per group the softmax-weighted sum of pair errors, over the pairs of all clips (and processes)."""
        everywhere = self.setting.semantics.batch_statistics == "global"
        pooled = []
        for error, group in zip(errors, pairs, strict=True):
            hardness = (error.detach() / temperature).masked_fill(group.valid == 0, -torch.inf)
            highest = hardness.amax()
            if everywhere:
                highest = maximum_over_processes(highest)
            weight = (hardness - highest.clamp(min=-1e30)).exp()
            total = shared_count(weight.sum(), self.setting)
            pooled.append((weight * error).sum() / total.clamp(min=torch.finfo(total.dtype).tiny))
        return mean_over_groups(pooled, [group.count for group in pairs])
