"""The three networks of a Video-JEPA: student and target encoders, and the predictor."""

import copy

import torch
from torch import Tensor, nn

from hpc_jepa.config.model import ModelConfig, Targets
from hpc_jepa.config.training import Precision
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.predictor import Predictor
from hpc_jepa.types import Latents, TokenMasks

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class VideoJEPA(nn.Module):
    """Computes the latents of one batch. The target starts as an exact copy of the student and has no gradient.

    targets: the encoder of the full clip: the ``ema`` target, or in runs without EMA the student itself, with
    (``student``) or without a gradient (``student_detached``).
    image_batches: train the image embeddings too, for batches of [B, 3, 1, Hp, Wp].
    """

    def __init__(
        self,
        config: ModelConfig,
        precision: Precision = "fp32",
        targets: Targets = "ema",
        image_batches: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.precision = precision
        self.targets = targets
        self.student = Encoder(config.encoder, config.activation_checkpointing)
        self.predictor = Predictor(config.predictor, config.encoder, config.activation_checkpointing)
        for module in (self.student.patch_embedding, self.student.modality, self.predictor.modality):
            module.image.requires_grad_(image_batches)
        self.target = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, pixels: Tensor, masks: tuple[TokenMasks, ...], step: int = 0) -> Latents:
        """Clips [B, 3, F, Hp, Wp] and the masks of each group -> Latents of ``step``.

        One target pass over the full clip, one student pass over the contexts of all groups and one predictor pass;
        tokens attend only within their group. With precision "bf16" or "fp16" matrix products run under autocast;
        student and target features are fp32.
        """
        half = HALF.get(self.precision)
        grid = self.student.grid(pixels)
        inputs = pixels if half is None else pixels.to(half)
        with torch.autocast(pixels.device.type, dtype=half or torch.bfloat16, enabled=half is not None):
            target = self._target_features(inputs)
            sizes = [group.context.shape[1] for group in masks]
            contexts = self.student(inputs, torch.cat([group.context for group in masks], dim=1), sizes)
            student = contexts.split(sizes, dim=1)
            predictions = self.predictor(student, masks, grid)
        return Latents(
            student=student,
            prediction=tuple(prediction for prediction, _ in predictions),
            context_prediction=tuple(context_prediction for _, context_prediction in predictions),
            target=target,
            masks=masks,
            grid=grid,
            pixels=pixels,
            step=step,
            target_levels=len(self.config.encoder.levels),
        )

    def _target_features(self, pixels: Tensor) -> Tensor:
        """Features [B, N, D] of the full clip, before the extra layer norm of each level."""
        encoder = self.target if self.targets == "ema" else self.student
        with torch.set_grad_enabled(self.targets == "student" and torch.is_grad_enabled()):
            return encoder(pixels)  # type: ignore[no-any-return]
