"""Schedules, optimizer, engine, checkpoints and monitoring of one run."""

from typing import Literal

from pydantic import Field, model_validator

from hpc_jepa.config.strict import Strict


class ScheduleConfig(Strict):
    """Learning rate, weight decay, EMA and context weight as functions of the step."""

    steps: int = Field(30_000, ge=0)
    warmup: float = Field(0.01, ge=0, le=1, description="fraction of the steps with linear learning-rate warm-up")
    lr_start: float = Field(1e-4, ge=0)
    lr: float = Field(6e-4, gt=0)
    lr_final: float = Field(6e-4, ge=0)
    weight_decay: float = Field(0.04, ge=0)
    weight_decay_final: float = Field(0.04, ge=0)
    ema_start: float = Field(0.99925, ge=0, le=1)
    ema_final: float = Field(0.99925, ge=0, le=1)
    context_weight: float = Field(0.5, ge=0, description="final weight of the context loss")


class OptimizerConfig(Strict):
    """AdamW. No weight decay for biases and other one-dimensional parameters."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    grad_clip: float = Field(0.0, ge=0, description="maximum gradient norm; 0: no clipping")


DeviceSetting = Literal["auto", "cpu", "cuda"]


class EngineConfig(Strict):
    """Device, DeepSpeed, precision and compilation."""

    device: DeviceSetting = Field(
        "auto", description="auto: a GPU, or the CPU where no GPU was requested; cpu: even where GPUs are visible"
    )
    batch_size: int = Field(32, gt=0, description="clips per step, over all processes")
    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "bf16"
    tf32: bool = Field(False, description="TF32 in float32 matrix products on a GPU: faster, 10 bits of mantissa")
    deterministic: bool = Field(False, description="deterministic algorithms only: equal bits on a GPU too, slower")
    overlap_communication: bool = Field(
        False, description="average gradients during backward (ZeRO 1-3); the host then waits for the GPU every step"
    )
    compile: bool = Field(False, description="torch.compile the blocks; needs a C++ compiler; not with ZeRO 3")

    @model_validator(mode="after")
    def _compilable(self) -> "EngineConfig":
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile=true does not work with zero_stage=3, which gathers weights in hooks")
        return self


class CheckpointConfig(Strict):
    """When to save, which checkpoints to keep, and which settings may change on resume."""

    every: int = Field(1000, gt=0, description="steps between periodic checkpoints")
    keep: int = Field(2, gt=0, description="number of newest checkpoints to keep")
    keep_every: int = Field(0, ge=0, description="also keep the checkpoints at multiples of this step count; 0: none")
    keep_hours: float = Field(0.0, ge=0, description="also keep one checkpoint per this many hours; 0: none")
    keep_best: int = Field(0, ge=0, description="also keep this many checkpoints with the best metric")
    best_by: str = Field("loss", description="name of that metric in TensorBoard: loss, terms/ld, health/target_std")
    best_is: Literal["lowest", "highest"] = "lowest"
    failed_save: Literal["stop", "warn"] = Field("stop", description="effect of a failed save at the next step")
    accept: tuple[str, ...] = Field((), description="settings, or data.sources.NAME, that may change on resume")

    def accepts(self, setting: str) -> bool:
        """Whether ``setting``, or a key above it, may differ."""
        return any(f"{setting}.".startswith(f"{accepted}.") for accepted in self.accept)


Action = Literal["off", "warn", "stop"]


class GuardConfig(Strict):
    """Limits for non-finite steps, loss spikes, collapse and stalled steps, and the reaction to each."""

    max_consecutive_skips: int = Field(10, gt=0, description="consecutive non-finite steps that stop the run")
    loss_spike: Action = "warn"
    spike_factor: float = Field(3.0, gt=1, description="a loss spike is more than this many times the median")
    spike_window: int = Field(20, gt=1, description="logged losses in the median")
    collapse: Action = "warn"
    collapse_std: float = Field(1e-3, ge=0, description="smallest healthy standard deviation of the target")
    collapse_rank: float = Field(1.5, ge=0, description="smallest healthy effective rank of the target")
    stall_seconds: float = Field(1800.0, ge=0, description="a longer step is stalled and ends the process; 0: never")


class MonitorConfig(Strict):
    """What is logged during training."""

    log_every: int = Field(10, gt=0, description="steps between lines of metrics.jsonl")
    health_every: int = Field(100, gt=0, description="steps between measurements of target std and effective rank")
    health_tokens: int = Field(2048, gt=1, description="target tokens in that measurement")
    tensorboard: bool = True

    @model_validator(mode="after")
    def _health_is_logged(self) -> "MonitorConfig":
        if self.health_every % self.log_every:
            raise ValueError(f"health_every ({self.health_every}) must be a multiple of log_every ({self.log_every})")
        return self
