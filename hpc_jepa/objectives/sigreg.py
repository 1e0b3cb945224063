"""SIGReg: random projections of the student features follow a standard normal distribution."""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import sum_over_processes, world_size
from hpc_jepa.kernels.directions import random_directions
from hpc_jepa.objectives.objective import Objective, TermOptions
from hpc_jepa.types import Latents

MAX_FREQUENCY = 3.0


class SigRegOptions(TermOptions):
    """Coefficient of the term, number of projections, number of frequencies."""

    weight: float = Field(1.0, ge=0)
    projections: int = Field(1024, gt=0)
    frequencies: int = Field(17, gt=1)


class SigReg(Objective[SigRegOptions]):
    r"""Epps-Pulley statistic of random projections of all context tokens (LeJEPA, Balestriero and LeCun 2025).

    For unit directions a, drawn in every step and equal on all processes, and ``s = a z``:
    ``T = sum_i w_i phi_i [(mean cos(s t_i) - phi_i)^2 + (mean sin(s t_i))^2]`` with ``t_i`` even on [0, 3], trapezoid
    weights ``w_i`` (twice, for the negative half) and ``phi_i = exp(-t_i^2 / 2)``; the term is the mean over
    directions. The published scale multiplies it by the number of samples of all processes (B8).
    """

    name = "sigreg"
    title = "SIGReg"
    families = "G"
    options_type = SigRegOptions
    handles_padding = True

    @classmethod
    def batch_statistic(cls, options: SigRegOptions, config: RunConfig) -> str | None:
        """Moments of the projections, squared."""
        return "the Epps-Pulley statistic"

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``sigreg``."""
        rows = torch.cat([student.flatten(0, 1) for student in latents.student]).float()
        projected = rows @ random_directions(rows.detach(), self.options.projections, latents.step)
        real = torch.cat([group.flatten() for group in latents.real_context]) if latents.real_context else None
        samples = len(rows) * world_size() if real is None else sum_over_processes(real.sum())
        t = torch.linspace(0.0, MAX_FREQUENCY, self.options.frequencies, device=rows.device)
        statistic = torch.zeros(self.options.projections, device=rows.device)
        for frequency, weight, phi in zip(t, *_weights(t), strict=True):
            angle = projected * frequency
            if real is None:
                moments = torch.stack([angle.cos().mean(0), angle.sin().mean(0)])
                moments = sum_over_processes(moments) / world_size()
            else:
                moments = sum_over_processes(torch.stack([real @ angle.cos(), real @ angle.sin()])) / samples
            statistic = statistic + weight * ((moments[0] - phi).square() + moments[1].square())
        scale = samples if self.ctx.semantics.sigreg_scale == "samples" else 1
        return {"sigreg": scale * statistic.mean()}


def _weights(t: Tensor) -> tuple[Tensor, Tensor]:
    """Quadrature weight times phi, and phi, at every frequency [M]."""
    phi = torch.exp(-t.square() / 2)
    spacing = t[1] - t[0]
    trapezoid = F.pad(torch.full_like(t[1:-1], 2.0), (1, 1), value=1.0)  # assigning numbers to elements is a host sync
    return trapezoid * spacing * phi, phi
