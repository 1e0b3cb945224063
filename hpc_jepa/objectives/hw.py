"""Hard-region weighting: give badly predicted tokens a larger weight in the prediction loss."""

import torch
from pydantic import Field
from torch import Tensor

from hpc_jepa.objectives.objective import Objective, TermOptions
from hpc_jepa.objectives.pooling import target_mean
from hpc_jepa.objectives.token_errors import prediction_errors
from hpc_jepa.types import Latents

LOWEST = -1e30
"""Hardness of padding: finite, so that a clip without real targets has a softmax."""


class HardRegionOptions(TermOptions):
    """Coefficient of the term and temperature of the softmax over errors."""

    weight: float = Field(0.3, ge=0)
    temperature: float = Field(1.0, ge=1e-6)


class HardRegion(Objective[HardRegionOptions]):
    r"""``L_hw = mean over groups of mean_{b,q} w e``, with ``e`` the error of a target token and per clip
    ``w = Q softmax_q(e / temperature)``, detached: the mean weight is 1, and larger errors weigh more.
    """

    name = "hw"
    title = "Hard-region weighting"
    families = "R"
    options_type = HardRegionOptions
    handles_padding = True

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``hw``."""
        groups = []
        for error, prediction, masks in zip(prediction_errors(latents), latents.prediction, latents.masks, strict=True):
            targets: int | Tensor = error.shape[1]
            if error.shape[1] < 2:
                continue
            hardness = error.detach() / self.options.temperature
            if masks.padding is not None:
                real = masks.padding.is_real(masks.target)
                hardness, targets = hardness.where(real > 0, LOWEST), real.sum(1, keepdim=True)
            weight = targets * torch.softmax(hardness, dim=1)
            if self.ctx.semantics.auxiliary_precision == "autocast":
                weight = weight.to(prediction.dtype)
            groups.append(target_mean(weight * error, masks))
        return {"hw": torch.stack(groups).mean() if groups else latents.target.new_zeros(())}
