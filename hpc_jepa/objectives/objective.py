"""Base class of all objectives: named scalar terms of the latents, and the coefficient of each term at a step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.config.strict import Strict
from hpc_jepa.distributed import sum_over_processes, world_size
from hpc_jepa.errors import InputError
from hpc_jepa.types import Latents, TokenGrid, TokenMasks

Options = TypeVar("Options", bound=Strict)


class TermOptions(Strict):
    """Options of an objective with one term."""

    weight: float = Field(ge=0, description="coefficient of the term")


@dataclass(frozen=True)
class ObjectiveContext:
    """The facts about a run that its objectives may depend on.

    width: C, channels of one level. levels: L; the training latent has D = L*C channels.
    steps: length of the run. other_objectives: options of every objective of the run by name, for the rules between
    objectives. accumulation: micro-batches of a step and process.
    """

    width: int
    levels: int
    grid: TokenGrid
    semantics: Semantics
    steps: int
    other_objectives: Mapping[str, Strict]
    accumulation: int = 1

    @property
    def latent_width(self) -> int:
        """D, channels of the training latent."""
        return self.width * self.levels

    def process_mean(self, x: Tensor) -> Tensor:
        """``x`` averaged over processes, differentiably, if statistics are those of the global batch; else ``x``.

        Gradients are averaged over processes too, so a sum of this process divided by the process mean of its count
        has the gradient of the mean over all processes. ``x`` must be a mean over equally many samples everywhere, or a
        count. Raises InputError with gradient accumulation, where other micro-batches would be missing from it.
        """
        if self.semantics.batch_statistics != "global":
            return x
        if self.accumulation > 1:
            raise InputError(
                "engine.accumulation: an objective averages over processes what it computes of a micro-batch "
                "(ObjectiveContext.process_mean); set engine.accumulation=1, or write it with mean_count"
            )
        return sum_over_processes(x) / world_size()

    def mean_count(self, count: Tensor, latents: Latents, group: int, of: Callable[[TokenMasks], Tensor]) -> Tensor:
        """``count`` of mask group ``group`` averaged over processes like ``process_mean``, and over micro-batches.

        of: the same count, from masks alone; called for the micro-batches of the step if there are several.
        """
        if self.semantics.batch_statistics != "global":
            return count
        if latents.step_masks:
            count = torch.stack([of(masks[group]) for masks in latents.step_masks]).sum(0) / len(latents.step_masks)
        return sum_over_processes(count) / world_size()


class Objective(nn.Module, Generic[Options]):
    """Base class. A subclass sets ``name``, ``title``, ``families`` and ``options_type`` and defines ``forward``. It
    overrides ``weights`` if it has several terms or a coefficient that changes over time, and sets ``min_tubelets`` if
    it compares tubelets, and ``handles_padding`` if it leaves out tokens that ``TokenMasks.padding`` marks.

    Objectives are pure functions of the latents and their heads. A head is a submodule called with tensors: ZeRO-3
    would not gather a parameter that the objective itself owns.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    families: ClassVar[str]
    options_type: ClassVar[type[Strict]]
    min_tubelets: ClassVar[int] = 1
    handles_padding: ClassVar[bool] = False

    def __init__(self, options: Options, ctx: ObjectiveContext) -> None:
        super().__init__()
        self.options = options
        self.ctx = ctx

    @classmethod
    def validate_run(cls, options: Options, config: RunConfig) -> None:
        """Raise ValueError if this objective cannot work in a run with this configuration."""
        statistic = cls.batch_statistic(options, config) if config.engine.accumulation > 1 else None
        if statistic is not None:
            raise ValueError(
                f"{statistic} is one of the features of the whole batch, and with engine.accumulation "
                f"({config.engine.accumulation}) only those of a micro-batch exist at a time; set engine.accumulation: "
                "1 and use more processes, or model.activation_checkpointing: true to save memory"
            )
        if config.data.padding == "ignore" and not cls.handles_padding:
            raise ValueError(
                "would count padding; set data.padding: repeat, or leave out what TokenMasks.padding marks"
            )
        tubelets = config.grid.time
        if tubelets < cls.min_tubelets:
            raise ValueError(f"needs {cls.min_tubelets} tubelets, clips have {tubelets}; raise data.clip.frames")

    @classmethod
    def batch_statistic(cls, options: Options, config: RunConfig) -> str | None:
        """What this objective computes of the features of all clips of a step together, if anything.

        Such an objective cannot accumulate gradients: the micro-batches that are not yet computed are part of it. Sums
        over clips divided by a count that masks alone determine are none (:meth:`ObjectiveContext.mean_count`).
        """
        return None

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Unweighted scalar terms by name."""
        raise NotImplementedError

    def weights(self, step: int) -> dict[str, float]:
        """Coefficient of each term at ``step``. Default: one term with the name of the objective, constant weight."""
        if not isinstance(self.options, TermOptions):
            raise NotImplementedError
        return {self.name: self.options.weight}
