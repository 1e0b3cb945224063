"""Hard-region weighting: give badly predicted tokens a larger weight in the prediction loss."""

import torch
from pydantic import Field
from torch import Tensor

from hpc_jepa.objectives.objective import Objective, TermOptions
from hpc_jepa.objectives.token_errors import prediction_errors
from hpc_jepa.types import Latents


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

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``hw``."""
        groups = []
        for error, prediction in zip(prediction_errors(latents), latents.prediction, strict=True):
            targets = error.shape[1]
            if targets < 2:
                continue
            hardness = error.detach() / self.options.temperature
            weight = targets * torch.softmax(hardness, dim=1)
            if self.ctx.semantics.auxiliary_precision == "autocast":
                weight = weight.to(prediction.dtype)
            groups.append((weight * error).mean())
        return {"hw": torch.stack(groups).mean() if groups else latents.target.new_zeros(())}
