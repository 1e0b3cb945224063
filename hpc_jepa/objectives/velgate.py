"""Velocity-gated smoothness: student features do not change at places where the target hardly changes."""

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor

from hpc_jepa.objectives.objective import Objective, TermOptions
from hpc_jepa.objectives.pairs import context_pairs
from hpc_jepa.objectives.pooling import mean_over_pairs
from hpc_jepa.objectives.student_features import student_changes
from hpc_jepa.types import Latents


class VelocityGateOptions(TermOptions):
    """Coefficient of the term, and the fraction of places of a tubelet that count as slow."""

    weight: float = Field(1.0, ge=0)
    percentile: float = Field(0.5, gt=0, lt=1)


class VelocityGate(Objective[VelocityGateOptions]):
    r"""``L_vel = mean over valid pairs of g |S[t+1] - S[t]|`` with ``g = 1`` where ``|Y[t+1] - Y[t]|_2`` is at most its
    quantile over all places of the tubelet, else 0. Gated-out pairs count as zeros.
    """

    name = "velgate"
    title = "Velocity-gated smoothness"
    families = "K"
    min_tubelets = 2
    options_type = VelocityGateOptions
    handles_padding = True

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``velgate``."""
        slow = self._slow_tokens(latents)
        changes = student_changes(latents, self.ctx)
        errors = [
            change.abs().mean(-1) * slow.gather(1, masks.context)
            for change, masks in zip(changes, latents.masks, strict=True)
        ]
        return {"velgate": mean_over_pairs(errors, context_pairs(latents))}

    @torch.no_grad()
    def _slow_tokens(self, latents: Latents) -> Tensor:
        """1 for the slow tokens of the clip, else 0: [B, N]. The last tubelet has no velocity and gets 0."""
        if latents.grid.time < 2:
            return latents.target.new_zeros(latents.target.shape[:2])
        by_tubelet = rearrange(latents.normalised_target().float(), "b (t p) d -> b t p d", t=latents.grid.time)
        speed = (by_tubelet[:, 1:] - by_tubelet[:, :-1]).norm(dim=-1)
        threshold = torch.quantile(speed, self.options.percentile, dim=-1, keepdim=True)
        slow = (speed <= threshold).float()
        return torch.cat([slow, torch.zeros_like(slow[:, :1])], dim=1).flatten(1)
