"""Base class of all objectives: named scalar terms of the latents, and the coefficient of each term at a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from pydantic import Field
from torch import Tensor, nn

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.config.strict import Strict
from hpc_jepa.distributed import sum_over_processes, world_size
from hpc_jepa.types import Latents, TokenGrid

Options = TypeVar("Options", bound=Strict)


class TermOptions(Strict):
    """Options of an objective with one term."""

    weight: float = Field(ge=0, description="coefficient of the term")


@dataclass(frozen=True)
class ObjectiveContext:
    """The facts about a run that its objectives may depend on.

    width: C, channels of one level. levels: L; the training latent has D = L*C channels.
    steps: length of the run. other_objectives: options of every objective of the run by name, for the rules between
    objectives.
    """

    width: int
    levels: int
    grid: TokenGrid
    semantics: Semantics
    steps: int
    other_objectives: Mapping[str, Strict]

    @property
    def latent_width(self) -> int:
        """D, channels of the training latent."""
        return self.width * self.levels

    def process_mean(self, x: Tensor) -> Tensor:
        """``x`` averaged over processes, differentiably, if statistics are those of the global batch; else ``x``.

        Gradients are averaged over processes too, so a sum of this process divided by the process mean of its count
        has the gradient of the mean over all processes. ``x`` must be a mean over equally many samples everywhere, or a
        count.
        """
        if self.semantics.batch_statistics == "global":
            return sum_over_processes(x) / world_size()
        return x


class Objective(nn.Module, Generic[Options]):
    """Base class. A subclass sets ``name``, ``title``, ``families`` and ``options_type`` and defines ``forward``. It
    overrides ``weights`` if it has several terms or a coefficient that changes over time, and sets ``min_tubelets`` if
    it compares tubelets.

    Objectives are pure functions of the latents and their heads. A head is a submodule called with tensors: ZeRO-3
    would not gather a parameter that the objective itself owns.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    families: ClassVar[str]
    options_type: ClassVar[type[Strict]]
    min_tubelets: ClassVar[int] = 1

    def __init__(self, options: Options, ctx: ObjectiveContext) -> None:
        super().__init__()
        self.options = options
        self.ctx = ctx

    @classmethod
    def validate_run(cls, options: Options, config: RunConfig) -> None:
        """Raise ValueError if this objective cannot work in a run with this configuration."""
        tubelets = config.grid.time
        if tubelets < cls.min_tubelets:
            raise ValueError(f"needs {cls.min_tubelets} tubelets, clips have {tubelets}; raise data.clip.frames")

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Unweighted scalar terms by name."""
        raise NotImplementedError

    def weights(self, step: int) -> dict[str, float]:
        """Coefficient of each term at ``step``. Default: one term with the name of the objective, constant weight."""
        if not isinstance(self.options, TermOptions):
            raise NotImplementedError
        return {self.name: self.options.weight}
