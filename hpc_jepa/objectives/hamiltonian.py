"""Hamiltonian dynamics: an energy moves the two halves of the features one tubelet on."""

import torch
from pydantic import Field
from torch import Tensor, nn

from hpc_jepa.objectives.channel_split import split_channels, split_widths
from hpc_jepa.objectives.objective import Objective, ObjectiveContext, TermOptions
from hpc_jepa.objectives.pairs import context_pairs
from hpc_jepa.objectives.pooling import mean_over_pairs
from hpc_jepa.objectives.student_features import student_features
from hpc_jepa.types import Latents

HALF = 0.5


class HamiltonianOptions(TermOptions):
    """Coefficient of the term, time step of the integrator, hidden width of the energy network."""

    weight: float = Field(1.0, ge=0)
    dt: float = Field(0.1, gt=0)
    hidden: int = Field(256, gt=0)


class Hamiltonian(Objective[HamiltonianOptions]):
    r"""Positions q and momenta p are the two parts of ``S[t]``. One step with the energy ``E(q, p)`` of each token:

    ``q' = q + dt dE/dp(q, p)``, ``p' = p - dt dE/dq(q', p)``, and
    ``L_ham = mean over valid pairs of |q' - Y_q[t+1]| + mean over valid pairs of |p' - Y_p[t+1]|``, target detached.
    """

    name = "hamiltonian"
    title = "Hamiltonian dynamics"
    families = "D"
    min_tubelets = 2
    options_type = HamiltonianOptions

    def __init__(self, options: HamiltonianOptions, ctx: ObjectiveContext) -> None:
        super().__init__(options, ctx)
        self.energy = nn.Sequential(
            nn.Linear(sum(split_widths(HALF, ctx)), options.hidden),
            nn.GELU(),
            nn.Linear(options.hidden, options.hidden),
            nn.GELU(),
            nn.Linear(options.hidden, 1),
        )

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``hamiltonian``."""
        errors = []
        features = student_features(latents, self.ctx)
        for student, now, change in zip(features, latents.target_at_context, latents.target_change, strict=True):
            q, p = split_channels(student, HALF, self.ctx)
            target_q, target_p = split_channels(now.detach() + change, HALF, self.ctx)
            moved_q, moved_p = self._step(q, p)
            errors.append((moved_q - target_q).abs().mean(-1) + (moved_p - target_p).abs().mean(-1))
        return {"hamiltonian": mean_over_pairs(errors, context_pairs(latents))}

    def _step(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Symplectic Euler, with the same p in both evaluations. Encoder and energy learn through the slopes."""
        slopes = torch.func.grad(self._energy, argnums=(0, 1))
        moved_q = q + self.options.dt * slopes(q, p)[1]
        moved_p = p - self.options.dt * slopes(moved_q, p)[0]
        return moved_q, moved_p

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        """Sum over tokens, which do not interact: its slopes are those of each token."""
        total: Tensor = self.energy(torch.cat([q, p], dim=-1)).float().sum()
        return total
