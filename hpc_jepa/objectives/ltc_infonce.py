"""Latent temporal contrast with InfoNCE: negatives from other places, clips and processes."""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import gather_over_processes, rank, world_size
from hpc_jepa.objectives.objective import Objective, TermOptions
from hpc_jepa.objectives.student_features import student_features
from hpc_jepa.types import Latents

LOWEST = -1e30
"""Similarity of padding: finite, so that the loss of a row of padding, which counts 0 times, is finite too."""


class InfoNCEOptions(TermOptions):
    """Coefficient of the term, softmax temperature, and number of anchors per clip and mask group."""

    weight: float = Field(0.5, ge=0)
    temperature: float = Field(0.1, gt=0)
    anchors: int = Field(16, gt=0)


class InfoNCE(Objective[InfoNCEOptions]):
    r"""Cross-entropy of ``cos(S_i, Y_j) / temperature`` over j (van den Oord et al. 2018), in both directions: anchors
    against targets and targets against anchors. The negatives of an anchor are the targets of all other anchors of all
    clips and processes, and the hard negative of the margin form: its own place one tubelet later.

    Anchors are context tokens at even distances in the context list; targets are detached.
    """

    name = "ltc_infonce"
    title = "Latent temporal contrast, InfoNCE"
    families = "XD"
    min_tubelets = 2
    options_type = InfoNCEOptions
    handles_padding = True

    @classmethod
    def batch_statistic(cls, options: InfoNCEOptions, config: RunConfig) -> str | None:
        """Negatives of all clips."""
        return "the set of negatives"

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``ltc_infonce``."""
        losses = []
        groups = zip(
            student_features(latents, self.ctx),
            latents.target_at_context,
            latents.target_change,
            latents.valid_pairs,
            strict=True,
        )
        real = latents.real_context or (None,) * len(latents.masks)
        for (student, target, change, valid), real_tokens in zip(groups, real, strict=True):
            chosen = self._anchor_indices(student.shape[1], student.device)
            anchor, now = _unit(student[:, chosen]), _unit(target[:, chosen].detach())
            later = _unit((target.detach() + change)[:, chosen])
            counted = None if real_tokens is None else real_tokens[:, chosen].flatten()
            losses.append(self._symmetric_loss(anchor, now, later, valid[:, chosen].flatten(), counted))
        return {"ltc_infonce": torch.stack(losses).mean()}

    def _anchor_indices(self, tokens: int, device: torch.device) -> Tensor:
        anchors = min(self.options.anchors, tokens)
        return torch.arange(anchors, device=device) * tokens // anchors

    def _symmetric_loss(self, anchor: Tensor, now: Tensor, later: Tensor, valid: Tensor, real: Tensor | None) -> Tensor:
        """Loss from unit rows [n, D] of this process and the validity of their pairs [n].

        real: [n] 1 for rows that count, 0 for padding, which is no negative either; None: all count.
        """
        all_anchors, all_targets = gather_over_processes(anchor), gather_over_processes(now)
        own = rank() * len(anchor) + torch.arange(len(anchor), device=anchor.device)
        hard_negative = ((anchor * later).sum(-1, keepdim=True)).masked_fill(valid[:, None] == 0, -torch.inf)
        forward = torch.cat([anchor @ all_targets.T, hard_negative], dim=1) / self.options.temperature
        backward = now @ all_anchors.T / self.options.temperature
        if real is None:
            return (F.cross_entropy(forward, own) + F.cross_entropy(backward, own)) / 2
        counted = gather_over_processes(real)
        backward = backward.where(counted > 0, LOWEST)
        forward = forward.where(torch.cat([counted, torch.ones_like(counted[:1])]) > 0, LOWEST)
        errors = (
            F.cross_entropy(forward, own, reduction="none") + F.cross_entropy(backward, own, reduction="none")
        ) / 2
        return (errors * real).sum() / (counted.sum() / world_size()).clamp(min=1)


def _unit(features: Tensor) -> Tensor:
    """[B, A, D] -> rows [B * A, D] of length 1."""
    return F.normalize(features.flatten(0, 1).float(), dim=-1)
