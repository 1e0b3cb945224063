"""Kinematic smoothness: features that change slowly, or at a constant rate, over time."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.objectives.channel_split import split_channels
from hpc_jepa.objectives.objective import Objective, TermOptions
from hpc_jepa.objectives.pairs import Pairs
from hpc_jepa.objectives.pooling import batch_mean, mean_over_pairs
from hpc_jepa.objectives.student_features import next_tubelet, student_features
from hpc_jepa.types import Latents, Padding, TokenMasks

HUBER_DELTA = 0.1
PUBLISHED_EPOCHS = 100


class KinematicOptions(TermOptions):
    """Coefficient and form of the term, the leading fraction of channels it penalises, and whether it is annealed."""

    weight: float = Field(1.0, ge=0)
    form: Literal["l1", "huber", "acceleration"] = "l1"
    ratio: float = Field(1.0, gt=0, le=1)
    anneal: bool = Field(False, description="cosine to 0 over the run, in 100 steps like the published epochs")


class Kinematic(Objective[KinematicOptions]):
    r"""``mean rho(D)`` with D the first difference over t (``l1``, ``huber`` at 0.1) or the second (``acceleration``).

    The published code penalises the target branch, all tokens of the clip. That has a gradient only without EMA (B4).
    Corrected, the term penalises the context pairs of the student (triples for ``acceleration``).
    """

    name = "kinematic"
    title = "Kinematic smoothness"
    families = "K"
    min_tubelets = 2
    options_type = KinematicOptions
    handles_padding = True

    @classmethod
    def validate_run(cls, options: KinematicOptions, config: RunConfig) -> None:
        """On the EMA target the term would be a constant (B4)."""
        if config.semantics.kinematic_features == "target" and config.targets != "student":
            raise ValueError("no gradient on an EMA target; set ema: never, or semantics.kinematic_features: student")
        super().validate_run(options, config)

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``kinematic``."""
        on_target = self.ctx.semantics.kinematic_features == "target"
        return {"kinematic": self._on_target(latents) if on_target else self._on_student(latents)}

    def weights(self, step: int) -> dict[str, float]:
        """Constant, or a half cosine over the run in 100 steps."""
        if not self.options.anneal:
            return {"kinematic": self.options.weight}
        epoch = PUBLISHED_EPOCHS * step // max(self.ctx.steps, 1)
        return {"kinematic": self.options.weight * 0.5 * (1 + math.cos(math.pi * epoch / PUBLISHED_EPOCHS))}

    def _on_target(self, latents: Latents) -> Tensor:
        features = self._channels(latents.normalised_target())
        if latents.grid.time < 2:
            return features.new_zeros(())
        change = rearrange(features, "b (t p) d -> b t p d", t=latents.grid.time).diff(dim=1)
        penalty: Tensor = self._penalty(change.diff(dim=1) if self._is_second_order(latents) else change)
        padding = latents.masks[0].padding
        if padding is None:
            return penalty.mean()
        later = latents.grid.time - penalty.shape[1] + torch.arange(penalty.shape[1], device=penalty.device)
        first_tokens = (later * latents.grid.cells).expand(len(penalty), -1)
        real = padding.is_real(first_tokens)
        count = self.ctx.mean_count(
            real.sum(), latents, 0, lambda masks: _padding_of(masks).is_real(first_tokens).sum()
        )
        return batch_mean(penalty.mean((2, 3)) * real, count)

    def _on_student(self, latents: Latents) -> Tensor:
        errors, pairs = [], []
        second_order = self._is_second_order(latents)
        groups = zip(student_features(latents, self.ctx), latents.masks, strict=True)
        for index, (student, masks) in enumerate(groups):
            features, next_position = self._channels(student), masks.next_in_context
            valid = _valid(masks, second_order)
            change = next_tubelet(features, next_position) - features
            if second_order:
                change = next_tubelet(change, next_position.clamp(min=0)) - change
            errors.append(self._penalty(change).mean(-1))
            count = self.ctx.mean_count(valid.sum(), latents, index, lambda masks: _valid(masks, second_order).sum())
            pairs.append(Pairs(masks.context, valid, count))
        return mean_over_pairs(errors, pairs)

    def _is_second_order(self, latents: Latents) -> bool:
        """Whether to use second differences, which need a clip of three tubelets."""
        return self.options.form == "acceleration" and latents.grid.time > 2

    def _channels(self, features: Tensor) -> Tensor:
        """The leading fraction of the channels."""
        return (
            features if self.options.ratio == 1 else split_channels(features, self.options.ratio, self.ctx).appearance
        )

    def _penalty(self, change: Tensor) -> Tensor:
        if self.options.form == "huber":
            return F.huber_loss(change, change.new_zeros(()).expand_as(change), reduction="none", delta=HUBER_DELTA)
        return change.abs()


def _padding_of(masks: TokenMasks) -> Padding:
    """The padding of masks of a step in which a clip has some."""
    assert masks.padding is not None
    return masks.padding


def _valid(masks: TokenMasks, second_order: bool) -> Tensor:
    """1 for context tokens whose place one tubelet later, and for second differences two, is in the context: [B, K]."""
    valid = masks.next_in_context >= 0
    if second_order:
        valid = valid & valid.gather(1, masks.next_in_context.clamp(min=0))
    return valid.float()
