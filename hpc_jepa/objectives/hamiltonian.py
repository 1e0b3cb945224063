"""Hamiltonian dynamics: one step of a learned Hamiltonian system takes the features to the next tubelet."""

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
    r"""Positions q and momenta p are the two halves of ``S[t]``, and ``E(q, p)`` is the energy of a token. One step:

    ``q' = q + dt dE/dp(q, p)``, ``p' = p - dt dE/dq(q', p)``, and
    ``L_ham = mean over valid pairs of |q' - Y_q[t+1]| + mean over valid pairs of |p' - Y_p[t+1]|``, target detached.
    """

    name = "hamiltonian"
    title = "Hamiltonian dynamics"
    families = "D"
    min_tubelets = 2
    options_type = HamiltonianOptions
    handles_padding = True

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
            next_q, next_p = self._step(q, p)
            errors.append((next_q - target_q).abs().mean(-1) + (next_p - target_p).abs().mean(-1))
        return {"hamiltonian": mean_over_pairs(errors, context_pairs(latents))}

    def _step(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Symplectic Euler, with the same p in both evaluations. Encoder and energy are trained through dE."""
        gradient = torch.func.grad(self._total_energy, argnums=(0, 1))
        next_q = q + self.options.dt * gradient(q, p)[1]
        next_p = p - self.options.dt * gradient(next_q, p)[0]
        return next_q, next_p

    def _total_energy(self, q: Tensor, p: Tensor) -> Tensor:
        """Sum over tokens. They do not interact, so its gradient is that of each token's own energy."""
        total: Tensor = self.energy(torch.cat([q, p], dim=-1)).float().sum()
        return total
