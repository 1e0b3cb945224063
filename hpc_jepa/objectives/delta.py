"""Temporal-difference matching: the student features change by as much as the target."""

from pydantic import Field
from torch import Tensor

from hpc_jepa.objectives.objective import Objective, TermOptions
from hpc_jepa.objectives.pairs import context_pairs
from hpc_jepa.objectives.pooling import mean_over_pairs
from hpc_jepa.objectives.student_features import student_changes
from hpc_jepa.types import Latents


class DeltaOptions(TermOptions):
    """Coefficient of the term."""

    weight: float = Field(0.5, ge=0)


class Delta(Objective[DeltaOptions]):
    r"""``L_delta = mean over valid pairs of |(S[t+1] - S[t]) - (Y[t+1] - Y[t])|``, target detached, no head."""

    name = "delta"
    title = "Temporal-difference matching"
    families = "D"
    min_tubelets = 2
    options_type = DeltaOptions
    handles_padding = True

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``delta``."""
        changes = student_changes(latents, self.ctx)
        errors = [
            (student - target).abs().mean(-1) for student, target in zip(changes, latents.target_change, strict=True)
        ]
        return {"delta": mean_over_pairs(errors, context_pairs(latents))}
