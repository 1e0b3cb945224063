"""Training steps without data, checkpoints and metrics, for benchmarks and ``hpc-jepa doctor --gpu``."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import set_ds_accelerator
from hpc_jepa.errors import InputError
from hpc_jepa.io.malloc import keep_freed_memory
from hpc_jepa.types import TokenMasks

Phase = Callable[[str], AbstractContextManager[None]]
"""Phase name -> context manager around that phase."""


class StepRunner:
    """Networks, engine and EMA of a run, built as in training.

    keep_memory: on a CPU, keep freed memory in the process, as training does.
    Raises InputError with ``engine.accumulation``: a step here is one forward and backward pass.
    """

    def __init__(self, config: RunConfig, keep_memory: bool = True) -> None:
        if config.engine.accumulation > 1:
            raise InputError(
                f"engine.accumulation: a timed step is one micro-batch; set engine.accumulation=1 and "
                f"engine.batch_size={config.engine.batch_size // config.engine.accumulation}"
            )
        set_ds_accelerator()
        from hpc_jepa.training.ema import TargetEMA
        from hpc_jepa.training.engine import build_engine
        from hpc_jepa.training.launch import join_process_group
        from hpc_jepa.training.loss_scale import require_fp16_device
        from hpc_jepa.training.train_module import build_train_module

        self.config = config
        self.device = join_process_group()
        require_fp16_device(config.engine, self.device)
        if self.device.type == "cpu" and keep_memory:
            keep_freed_memory()
        self.engine = build_engine(build_train_module(config), config)
        self.model, self.objectives = self.engine.module.model, self.engine.module.objectives
        self._ema = TargetEMA(self.model.student, self.model.target)
        self._fine = torch.zeros((), dtype=torch.bool, device=self.device)

    def step(
        self, pixels: Tensor, masks: tuple[TokenMasks, ...], number: int = 0, phase: Phase = lambda _: nullcontext()
    ) -> None:
        """The step of this number on clips [B, 3, F, Hp, Wp]: forward, backward, optimizer, average of the target."""
        from hpc_jepa.objectives.composition import weighted_sum
        from hpc_jepa.training.engine import backward, optimizer_step, set_schedule_values
        from hpc_jepa.training.numerics import numerics
        from hpc_jepa.training.schedules import schedule_values_at

        with numerics(self.config.engine):
            schedule_values = schedule_values_at(number, self.config.schedule)
            set_schedule_values(self.engine, schedule_values)
            terms, _ = self.engine(pixels, masks, number)
            loss = weighted_sum(terms, self.objectives.weights(number))
            with phase("backward"):
                backward(self.engine, loss)
            with phase("optimizer"):
                optimizer_step(self.engine, self._fine)
            with phase("EMA"):
                self._ema.update(schedule_values.ema)
