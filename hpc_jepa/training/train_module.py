"""What the engine wraps: the three networks and the heads of the objectives, as one module."""

import torch
from torch import Tensor, nn

from hpc_jepa.config.run import RunConfig
from hpc_jepa.models.video_jepa import VideoJEPA
from hpc_jepa.objectives import ObjectiveSet, build_objective
from hpc_jepa.types import TokenMasks


class TrainModule(nn.Module):
    """Clips and masks in, loss terms out."""

    def __init__(self, model: VideoJEPA, objectives: ObjectiveSet) -> None:
        super().__init__()
        self.model = model
        self.objectives = objectives

    def forward(self, pixels: Tensor, masks: tuple[TokenMasks, ...], step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Unweighted terms by name, and the target features [B, N, D] for the health monitor."""
        # ZeRO-3 gathers parameters in hooks around module calls that pass tensors. These two pass latents and own no
        # parameter themselves, so they are called without hooks; the modules inside them are called with hooks.
        latents = self.model.forward(pixels, masks, step)
        return self.objectives.forward(latents), latents.target.detach()


def build_train_module(config: RunConfig) -> TrainModule:
    """Networks and heads with the initial weights of ``config.seed``: the same on every process.

    Networks are drawn before heads, so that runs that differ in objectives alone start from the same encoder.
    """
    torch.manual_seed(config.seed)
    model = VideoJEPA(config.model, config.engine.precision, config.targets, config.data.images == "batches")
    objectives = build_objective(
        config.objectives,
        width=config.model.encoder.width,
        levels=len(config.model.encoder.levels),
        grid=config.grid,
        semantics=config.semantics,
        steps=config.schedule.steps,
        context_weight=config.schedule.context_weight,
    )
    return TrainModule(model, objectives)
