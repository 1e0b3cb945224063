"""The module that DeepSpeed wraps: student, target and predictor, and the heads of the objectives."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from hpc_jepa.config.run import RunConfig
from hpc_jepa.models.block import exclude_cudnn_attention
from hpc_jepa.models.video_jepa import VideoJEPA
from hpc_jepa.objectives import ObjectiveSet, build_objective
from hpc_jepa.types import TokenMasks


class TrainModule(nn.Module):
    """Maps clips and masks to loss terms."""

    def __init__(self, model: VideoJEPA, objectives: ObjectiveSet) -> None:
        super().__init__()
        self.model = model
        self.objectives = objectives

    def forward(
        self,
        pixels: Tensor,
        masks: tuple[TokenMasks, ...],
        step: int,
        step_masks: tuple[tuple[TokenMasks, ...], ...] = (),
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Unweighted loss terms by name, and the target features [B, N, D] without gradient.

        step_masks: with accumulation the masks of all micro-batches of this process, these among them.
        """
        # Call forward() without hooks: ZeRO-3's parameter-gathering hooks handle tensors only, and these two modules
        # exchange Latents. They own no parameters; the modules inside them are called with hooks.
        latents = self.model.forward(pixels, masks, step)
        if step_masks:
            latents = replace(latents, step_masks=step_masks)
        return self.objectives.forward(latents), latents.target.detach()


def build_train_module(config: RunConfig) -> TrainModule:
    """Initialise networks and heads from ``config.seed``, identically on every rank.

    Networks come before heads, so runs that differ only in their objectives start from the same encoder. Chooses the
    attention backend of the process.
    """
    exclude_cudnn_attention()
    torch.manual_seed(config.seed)
    model = VideoJEPA(config.model, config.engine.precision, config.targets, config.data.images == "batches")
    objectives = build_objective(
        config.objectives,
        width=config.model.encoder.width,
        levels=len(config.model.encoder.levels),
        grid=config.grid,
        semantics=config.semantics,
        steps=config.schedule.steps,
        context_weight=config.context_ramps,
        distance_weights=config.masking.context_distance_weights,
        accumulation=config.engine.accumulation,
    )
    return TrainModule(model, objectives)
