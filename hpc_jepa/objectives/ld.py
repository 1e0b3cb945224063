"""Latent dynamics: predict the coming change of the target from a context token."""

import torch
from pydantic import Field
from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import max_over_processes
from hpc_jepa.objectives.fwm import DynamicsHead
from hpc_jepa.objectives.hw import HardRegionOptions
from hpc_jepa.objectives.objective import Objective, ObjectiveContext, TermOptions
from hpc_jepa.objectives.pairs import PairKind, Pairs, check_forecast, target_changes, temporal_pairs
from hpc_jepa.objectives.pooling import mean_over_mask_groups, mean_over_pairs
from hpc_jepa.objectives.student_features import student_features
from hpc_jepa.types import Latents


class LatentDynamicsOptions(TermOptions):
    """Coefficient of the term, hidden width of its head, kind of its pairs."""

    weight: float = Field(1.0, ge=0)
    hidden: int = Field(256, gt=0)
    pairs: PairKind = "context"


class LatentDynamics(Objective[LatentDynamicsOptions]):
    r"""``L_ld = mean over valid pairs of |g(S[t]) - (Y[t+1] - Y[t])|``, target detached, g = Linear-GELU-Linear.

    If the run also has ``fwm``, the head reads the dynamics part only. If it has ``hw``, the pairs of the whole batch
    are weighted by ``softmax(error / temperature)``, detached; the published code computes that weighted error without
    a gradient, so the term trains nothing (B2). ``pairs: forecast`` predicts the change from the last tubelet of the
    context to the one after it, which the student has not seen (B12).
    """

    name = "ld"
    title = "Latent dynamics"
    families = "D"
    min_tubelets = 2
    options_type = LatentDynamicsOptions
    handles_padding = True

    def __init__(self, options: LatentDynamicsOptions, ctx: ObjectiveContext) -> None:
        super().__init__(options, ctx)
        self._hard_region = ctx.other_objectives.get("hw")
        self.head = DynamicsHead(ctx, options.hidden, ctx.latent_width)

    @classmethod
    def validate_run(cls, options: LatentDynamicsOptions, config: RunConfig) -> None:
        """Forecast pairs need masks that leave tubelets to forecast."""
        check_forecast(options.pairs, config)
        super().validate_run(options, config)

    @classmethod
    def batch_statistic(cls, options: LatentDynamicsOptions, config: RunConfig) -> str | None:
        """The softmax over the pairs of all clips, with ``hw`` and unless that of each process is meant."""
        weighted = any(choice.name == "hw" for choice in config.objectives)
        return "its softmax with hw" if weighted and config.semantics.batch_statistics == "global" else None

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``ld``."""
        with_gradient = self._hard_region is None or self.ctx.semantics.ld_hw_gradient
        pairs = temporal_pairs(self.options.pairs, latents, self.ctx)
        changes = latents.target_change if self.options.pairs == "context" else target_changes(latents, pairs)
        with torch.set_grad_enabled(with_gradient and torch.is_grad_enabled()):
            errors = [
                (self.head(student) - change).abs().mean(-1)
                for student, change in zip(student_features(latents, self.ctx), changes, strict=True)
            ]
            if isinstance(self._hard_region, HardRegionOptions):
                return {"ld": self._hard_weighted_mean(errors, pairs, self._hard_region.temperature)}
            return {"ld": mean_over_pairs(errors, pairs)}

    def _hard_weighted_mean(self, errors: list[Tensor], pairs: tuple[Pairs, ...], temperature: float) -> Tensor:
        """Softmax-weighted mean of pair errors over all clips (and processes) per mask group, then over the groups."""
        is_global = self.ctx.semantics.batch_statistics == "global"
        pooled = []
        for error, group in zip(errors, pairs, strict=True):
            hardness = (error.detach() / temperature).masked_fill(group.valid == 0, -torch.inf)
            highest = hardness.amax()
            if is_global:
                highest = max_over_processes(highest)
            weight = (hardness - highest.clamp(min=-1e30)).exp()
            total = self.ctx.process_mean(weight.sum())
            pooled.append((weight * error).sum() / total.clamp(min=torch.finfo(total.dtype).tiny))
        return mean_over_mask_groups(pooled, [group.count for group in pairs])
