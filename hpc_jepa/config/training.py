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


class CheckpointConfig(Strict):
    """When to save and what to keep."""

    every: int = Field(1000, gt=0, description="steps between two periodic checkpoints")
    keep: int = Field(2, gt=0, description="newest checkpoints kept")


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
