"""Kinematic smoothness: features that move little, or steadily, in time."""

import math
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.strict import Strict
from hpc_jepa.objectives.channel_split import split_channels
from hpc_jepa.objectives.objective import Objective, TermOptions
from hpc_jepa.objectives.pairs import Pairs
from hpc_jepa.objectives.pooling import batch_count, mean_over_pairs
from hpc_jepa.objectives.student_features import next_tubelet, student_features
from hpc_jepa.types import Latents

HUBER_DELTA = 0.1
PUBLISHED_EPOCHS = 100


class KinematicOptions(TermOptions):
    """Coefficient and form of the term, the leading share of channels it acts on, and whether it fades out."""

    weight: float = Field(1.0, ge=0)
    form: Literal["l1", "huber", "acceleration"] = "l1"
    ratio: float = Field(1.0, gt=0, le=1)
    anneal: bool = Field(False, description="cosine to 0 over the run, in 100 steps as the published epochs")


class Kinematic(Objective[KinematicOptions]):
    r"""``mean rho(D)`` with D the first difference over t (``l1``, ``huber`` at 0.1) or the second (``acceleration``).

    The published code acts on the target branch, all tokens of the clip, which carries a gradient only where there is
    no EMA (B4). Corrected, the term acts on the context pairs of the student (triples for ``acceleration``).
    """

    name = "kinematic"
    title = "Kinematic smoothness"
    families = "K"
    min_tubelets = 2
    options_type = KinematicOptions

    @classmethod
    def validate_run(cls, options: Strict, config: RunConfig) -> str | None:
        """On the EMA target the term would be a constant (B4)."""
        if config.semantics.kinematic_features == "target" and config.targets != "student":
            return "has no gradient on an EMA target; set ema: never, or semantics.kinematic_features: student"
        return super().validate_run(options, config)

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``kinematic``."""
        if self.ctx.semantics.kinematic_features == "target":
            return {"kinematic": self._on_target(latents)}
        return {"kinematic": self._on_student(latents)}

    def weights(self, step: int) -> dict[str, float]:
        """Constant, or a half cosine over the run that steps down once an epoch of a hundredth of it."""
        if not self.options.anneal:
            return {"kinematic": self.options.weight}
        epoch = PUBLISHED_EPOCHS * step // max(self.ctx.steps, 1)
        return {"kinematic": self.options.weight * 0.5 * (1 + math.cos(math.pi * epoch / PUBLISHED_EPOCHS))}

    def _on_target(self, latents: Latents) -> Tensor:
        moving = rearrange(self._channels(latents.normalised_target()), "b (t p) d -> b t p d", t=latents.grid.time)
        if latents.grid.time < 2:
            return moving.new_zeros(())
        change = moving.diff(dim=1)
        size: Tensor = self._penalty(change.diff(dim=1) if self._is_second_order(latents) else change)
        return size.mean()

    def _on_student(self, latents: Latents) -> Tensor:
        errors, pairs = [], []
        for student, masks in zip(student_features(latents, self.ctx), latents.masks, strict=True):
            moving, following = self._channels(student), masks.next_in_context
            valid = following >= 0
            change = next_tubelet(moving, following) - moving
            if self._is_second_order(latents):
                after = following.clamp(min=0)
                valid = valid & valid.gather(1, after)
                change = next_tubelet(change, after) - change
            errors.append(self._penalty(change).mean(-1))
            pairs.append(Pairs(masks.context, valid.float(), batch_count(valid.float().sum(), self.ctx)))
        return mean_over_pairs(errors, pairs)

    def _is_second_order(self, latents: Latents) -> bool:
        """Second differences, where the clip has three tubelets to take them from."""
        return self.options.form == "acceleration" and latents.grid.time > 2

    def _channels(self, features: Tensor) -> Tensor:
        """The leading share of the channels."""
        return (
            features if self.options.ratio == 1 else split_channels(features, self.options.ratio, self.ctx).appearance
        )

    def _penalty(self, change: Tensor) -> Tensor:
        if self.options.form == "huber":
            return F.huber_loss(change, change.new_zeros(()).expand_as(change), reduction="none", delta=HUBER_DELTA)
        return change.abs()
