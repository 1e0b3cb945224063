"""What an objective is: named scalar terms of the latents, and the coefficient of each term at a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from pydantic import Field
from torch import Tensor, nn

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.config.strict import Strict
from hpc_jepa.types import Latents, TokenGrid

Options = TypeVar("Options", bound=Strict)


class TermOptions(Strict):
    """Options of an objective with one term."""

    weight: float = Field(ge=0, description="coefficient of the term")


@dataclass(frozen=True)
class ObjectiveContext:
    """What an objective may know about the run it serves.

    width: C, channels of one level. levels: L, so that the training latent has D = L*C channels.
    companions: options of every objective of the run by name, for the rules between objectives.
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


class Objective(nn.Module, Generic[Options]):
    """Base class. A subclass sets ``name``, ``title``, ``families`` and ``options_type``, and defines ``forward``; and
    ``weights`` where its terms are several or change over time, ``least_tubelets`` where it looks along time.

    Objectives are pure: everything random or stateful comes with the latents or lies in the heads. Heads are modules
    called with tensors; a parameter owned by the objective itself would not be gathered under ZeRO-3.
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
    def validate_run(cls, options: Strict, config: RunConfig) -> str | None:
        """Why this objective cannot work in a run, or None."""
        tubelets = config.data.clip.frames // config.model.encoder.tubelet
        if tubelets >= cls.min_tubelets:
            return None
        return f"needs {cls.min_tubelets} tubelets along time, clips have {tubelets}; raise data.clip.frames"

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Unweighted scalar terms by name."""
        raise NotImplementedError

    def weights(self, step: int) -> dict[str, float]:
        """Coefficient of each term at ``step``. Here: one term, named like the objective, with a constant weight."""
        if not isinstance(self.options, TermOptions):
            raise NotImplementedError
        return {self.name: self.options.weight}
