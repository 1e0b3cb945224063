"""Spectral alignment: student and target agree at every temporal frequency."""

import torch
from pydantic import Field
from torch import Tensor

from hpc_jepa.objectives.objective import Objective, TermOptions
from hpc_jepa.objectives.pooling import batch_mean, mean_over_mask_groups
from hpc_jepa.objectives.student_features import student_features
from hpc_jepa.types import Latents, TokenGrid, TokenMasks

MIN_TUBELETS = 4


class SpectralOptions(TermOptions):
    """Coefficient of the term."""

    weight: float = Field(1.0, ge=0)


class Spectral(Objective[SpectralOptions]):
    r"""``L_spec = mean over columns, frequencies and channels of w_f |rfft_t(S)[f] - rfft_t(Y)[f]|``, target detached.

    A column is a place whose tokens of all T tubelets are in the context; ``w_f`` rises linearly from 0.1 to 1. The
    transform is not normalised. Needs at least four tubelets.
    """

    name = "spectral"
    title = "Spectral alignment"
    families = "D"
    min_tubelets = MIN_TUBELETS
    options_type = SpectralOptions
    handles_padding = True

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``spectral``."""
        grid = latents.grid
        if grid.time < MIN_TUBELETS:
            return {"spectral": latents.target.new_zeros(())}
        pooled, counts = [], []
        features = student_features(latents, self.ctx)
        groups = zip(features, latents.target_at_context, latents.masks, strict=True)
        for index, (student, target, masks) in enumerate(groups):
            columns, complete = column_positions(masks, grid)
            difference = _gather_columns(student.float() - target.detach().float(), columns)
            error = _weighted_modulus(difference)
            count = self.ctx.mean_count(
                complete.sum(), latents, index, lambda masks: column_positions(masks, grid)[1].sum()
            )
            pooled.append(batch_mean(error * complete, count))
            counts.append(count)
        return {"spectral": mean_over_mask_groups(pooled, counts)}


def column_positions(masks: TokenMasks, grid: TokenGrid) -> tuple[Tensor, Tensor]:
    """Positions in the context of the tokens of each column [B, P, T], and 1 for a whole column, else 0 [B, P].

    A clip with padding has no whole column.
    A context of K tokens has at most P = K / T whole columns. Whole columns come first; others fill the remaining rows.
    """
    context = masks.context
    index = torch.arange(context.shape[1], device=context.device).expand_as(context)
    position = context.new_full((len(context), grid.tokens), -1).scatter(1, context, index)
    columns = position.view(-1, grid.time, grid.cells).transpose(1, 2)
    complete = (columns >= 0).all(-1)
    if masks.padding is not None:
        complete = complete & (masks.padding.real == grid.tokens)[:, None]
    first = complete.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : context.shape[1] // grid.time]
    chosen = columns.gather(1, first.unsqueeze(-1).expand(-1, -1, grid.time))
    return chosen.clamp(min=0), complete.gather(1, first).float()


def _gather_columns(features: Tensor, columns: Tensor) -> Tensor:
    """Features [B, K, D] at columns [B, P, T] -> [B, P, T, D]."""
    batch, places, tubelets = columns.shape
    flat = columns.flatten(1).unsqueeze(-1).expand(-1, -1, features.shape[-1])
    return features.gather(1, flat).view(batch, places, tubelets, -1)


def _weighted_modulus(difference: Tensor) -> Tensor:
    """[B, P, T, D] -> mean over frequencies and channels of the weighted modulus of its spectrum over T: [B, P]."""
    spectrum = torch.fft.rfft(difference, dim=2)
    weight = torch.linspace(0.1, 1.0, spectrum.shape[2], device=difference.device)
    error: Tensor = (spectrum.abs() * weight[:, None]).mean((2, 3))
    return error
