"""Latent temporal contrast: a student token is closer to the target of its own tubelet than to that of the next."""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hpc_jepa.objectives.objective import Objective, TermOptions
from hpc_jepa.objectives.pairs import context_pairs
from hpc_jepa.objectives.pooling import mean_over_pairs
from hpc_jepa.objectives.student_features import student_features
from hpc_jepa.types import Latents


class TemporalContrastOptions(TermOptions):
    """Coefficient of the term and margin of the hinge."""

    weight: float = Field(0.5, ge=0)
    margin: float = Field(0.5, ge=0)


class TemporalContrast(Objective[TemporalContrastOptions]):
    r"""``L_ltc = mean over valid pairs of max(0, margin - cos(S[t], Y[t]) + cos(S[t], Y[t+1]))``, target detached.

    The single negative is the same place one tubelet later; the last tubelet is never an anchor.
    """

    name = "ltc"
    title = "Latent temporal contrast"
    families = "XD"
    min_tubelets = 2
    options_type = TemporalContrastOptions
    handles_padding = True

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``ltc``."""
        hinges = []
        features = student_features(latents, self.ctx)
        for student, target, change in zip(features, latents.target_at_context, latents.target_change, strict=True):
            now = target.detach()
            positive = F.cosine_similarity(student, now, dim=-1)
            negative = F.cosine_similarity(student, now + change, dim=-1)
            hinges.append((self.options.margin - positive + negative).clamp(min=0))
        return {"ltc": mean_over_pairs(hinges, context_pairs(latents))}
