"""Schedules, optimizer, engine, checkpoints and monitoring of one run."""

from typing import Literal

from pydantic import Field, model_validator

from hpc_jepa.config.strict import Strict


class ScheduleConfig(Strict):
    """Every schedule is a pure function of the step."""

    steps: int = Field(30_000, ge=0)
    warmup: float = Field(0.01, ge=0, le=1, description="share of the steps with a linearly rising learning rate")
    lr_start: float = Field(1e-4, ge=0)
    lr: float = Field(6e-4, gt=0)
    lr_final: float = Field(6e-4, ge=0)
    weight_decay: float = Field(0.04, ge=0)
    weight_decay_final: float = Field(0.04, ge=0)
    ema_start: float = Field(0.99925, ge=0, le=1)
    ema_final: float = Field(0.99925, ge=0, le=1)
    context_weight: float = Field(0.5, ge=0, description="final weight of the loss at context tokens")


class OptimizerConfig(Strict):
    """AdamW. Biases and one-dimensional parameters are not decayed."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    clip_gradient: float = Field(0.0, ge=0, description="largest gradient norm; 0 does not clip")


class EngineConfig(Strict):
    """DeepSpeed."""

    batch_size: int = Field(32, gt=0, description="clips per step over all processes")
    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "bf16"
    overlap_communication: bool = Field(
        False, description="at ZeRO 1-3, exchange gradients beside the backward pass; races were reported, so compare"
    )
    compile: bool = Field(
        False, description="torch.compile the blocks of the networks; needs a C++ compiler; not at ZeRO 3"
    )

    @model_validator(mode="after")
    def _compilable(self) -> "EngineConfig":
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile does not see how zero_stage 3 gathers weights; take stage 2, or do not compile")
        return self


class CheckpointConfig(Strict):
    """When to save, what to keep, and what may differ from what was saved."""

    every: int = Field(1000, gt=0, description="steps between two periodic checkpoints")
    keep: int = Field(2, gt=0, description="newest checkpoints kept")
    keep_every: int = Field(0, ge=0, description="checkpoints of multiples of so many steps are kept too; 0: none")
    keep_hours: float = Field(0.0, ge=0, description="one checkpoint of every so many hours is kept too; 0: none")
    keep_best: int = Field(0, ge=0, description="so many checkpoints with the best figure are kept too")
    best_by: str = Field("loss", description="that figure, as TensorBoard names it: loss, terms/ld, health/target_std")
    best_is: Literal["lowest", "highest"] = "lowest"
    failed_save: Literal["stop", "warn"] = Field("stop", description="what a save that failed does at the next step")
    accept: tuple[str, ...] = Field(
        (), description="settings, or data.sources.NAME, that may differ from what the checkpoint was saved with"
    )

    def accepts(self, setting: str) -> bool:
        """Whether ``setting``, or what it is part of, is among those that may differ."""
        return any(f"{setting}.".startswith(f"{accepted}.") for accepted in self.accept)


Action = Literal["off", "warn", "stop"]


class GuardConfig(Strict):
    """When a run is in danger, and what is done about it."""

    skips_in_a_row: int = Field(10, gt=0, description="steps without a finite loss and gradient that stop the run")
    loss_spike: Action = "warn"
    spike_factor: float = Field(3.0, gt=1, description="a spike is a loss of so many times the median")
    spike_window: int = Field(20, gt=1, description="logged losses that the median is taken of")
    collapse: Action = "warn"
    collapse_std: float = Field(1e-3, ge=0, description="smallest healthy spread of the target")
    collapse_rank: float = Field(1.5, ge=0, description="smallest healthy effective rank of the target")
    stall_seconds: float = Field(
        1800.0, ge=0, description="a step that takes longer is stuck: stacks are printed and the process ends; 0: never"
    )


class MonitorConfig(Strict):
    """What is measured while training."""

    log_every: int = Field(10, gt=0, description="steps between two lines of metrics.jsonl")
    health_every: int = Field(100, gt=0, description="steps between two looks at target spread and effective rank")
    health_tokens: int = Field(2048, gt=1, description="target tokens in the health sample")
    tensorboard: bool = True

    @model_validator(mode="after")
    def _health_is_logged(self) -> "MonitorConfig":
        if self.health_every % self.log_every:
            raise ValueError(f"health_every ({self.health_every}) must be a multiple of log_every ({self.log_every})")
        return self
