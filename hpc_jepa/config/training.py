"""Schedules, optimizer, engine, checkpoints and monitoring of one run."""

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from hpc_jepa.config.benchmark import ProtocolName
from hpc_jepa.config.phases import QUANTITIES, Phase, Ramp, RampName, SchedulePhases, named_ramp, place
from hpc_jepa.config.strict import SettingError, Strict
from hpc_jepa.config.trackers import MlflowConfig, TrackerName, TrackioConfig, WandbConfig


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
    phases: SchedulePhases = SchedulePhases()

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, data: Any) -> Any:
        """``lr: null`` takes back a key of an extended file."""
        replaced = {key for keys in QUANTITIES.values() for key in keys}
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None or key not in replaced}
        return data

    @model_validator(mode="after")
    def _one_schedule_per_quantity(self) -> "ScheduleConfig":
        for quantity, keys in QUANTITIES.items():
            phases = getattr(self.phases, quantity)
            if not isinstance(phases, tuple):
                continue
            for key in keys:
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise SettingError(
                        ("phases", quantity),
                        f"replaces schedule.{key}, which is set later or in the same file ({getattr(self, key):g}); "
                        "remove one of them",
                    )
            place(phases, self.steps, ("phases", quantity))
        return self

    @property
    def learning_rate(self) -> tuple[Ramp, ...]:
        """Ramps of the learning rate: linear over the warm-up, then a half cosine, unless there is a list."""
        warmup = int(self.warmup * self.steps)
        ramps = (Ramp(0, warmup, self.lr_start, self.lr), Ramp(warmup, self.steps, self.lr, self.lr_final, cosine=True))
        return self._placed("lr") or (ramps if warmup else ramps[1:])

    @property
    def decay(self) -> tuple[Ramp, ...]:
        """Ramps of the weight decay: a half cosine over the run, unless there is a list."""
        ramp = Ramp(0, self.steps, self.weight_decay, self.weight_decay_final, cosine=True)
        return self._placed("weight_decay") or (ramp,)

    @property
    def momentum(self) -> tuple[Ramp, ...]:
        """Ramps of the momentum of the EMA: linear over the run, unless there is a list."""
        return self._placed("ema") or (Ramp(0, self.steps, self.ema_start, self.ema_final),)

    def context_ramps(self, default: RampName) -> tuple[Ramp, ...]:
        """Ramps of the context weight; ``default`` is the name of the ramp if ``phases`` has none."""
        chosen = self.phases.context_weight or default
        if isinstance(chosen, tuple):
            return place(chosen, self.steps, ())
        return named_ramp(chosen, self.context_weight, self.steps)

    def _placed(self, quantity: str) -> tuple[Ramp, ...]:
        phases: tuple[Phase, ...] | None = getattr(self.phases, quantity)
        return place(phases, self.steps, ()) if phases else ()


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Strict):
    """AdamW. No weight decay for biases and other one-dimensional parameters."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    grad_clip: float = Field(0.0, ge=0, description="maximum gradient norm; 0: no clipping")


Precision = Literal["fp32", "bf16", "fp16"]


class LossScaleConfig(Strict):
    """Dynamic loss scale of fp16; the defaults are those of DeepSpeed's section ``fp16``."""

    initial: float = Field(65536.0, gt=0, le=2**24, description="scale at the first step, a power of two")
    window: int = Field(1000, gt=0, description="steps without overflow after which the scale doubles")
    min: float = Field(1.0, gt=0, le=2**24, description="smallest scale, a power of two")

    @model_validator(mode="after")
    def _powers_of_two(self) -> "LossScaleConfig":
        for name in ("initial", "min"):
            if math.frexp(getattr(self, name))[0] != 0.5:
                raise SettingError((name,), f"{getattr(self, name):g} would round gradients; use a power of two")
        if self.min > self.initial:
            raise SettingError(("min",), f"{self.min:g} is larger than initial ({self.initial:g})")
        return self


DeviceSetting = Literal["auto", "cpu", "cuda"]


class EngineConfig(Strict):
    """Device, DeepSpeed, precision and compilation."""

    device: DeviceSetting = Field(
        "auto", description="auto: a GPU, or the CPU where no GPU was requested; cpu: even where GPUs are visible"
    )
    batch_size: int = Field(32, gt=0, le=2**20, description="clips per step, over all processes")
    accumulation: int = Field(
        1, gt=0, le=2**20, description="micro-batches per step and process: less memory for activations, the same step"
    )
    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Precision = Field("bf16", description="of matrix products; fp16 for GPUs without bf16 (T4, V100)")
    loss_scale: LossScaleConfig = LossScaleConfig()
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

    @model_validator(mode="after")
    def _fp16_on_a_gpu(self) -> "EngineConfig":
        if self.precision == "fp16" and self.device == "cpu":
            raise SettingError(("precision",), "fp16 on device=cpu is slower than fp32 and gains nothing; use fp32")
        if self.precision != "fp16" and self.loss_scale != LossScaleConfig():
            raise SettingError(("loss_scale",), f"needs precision=fp16; {self.precision} is not scaled")
        return self


class BestEvaluated(Strict):
    """Checkpoints with the best result of one probe on target weights, by the records in ``eval/steps/``."""

    benchmark: str = Field(min_length=1, description="name of the benchmark, as in its records")
    probe: str = Field(min_length=1, description="a probe of the protocol")
    protocol: ProtocolName = "standard"
    count: int = Field(1, gt=0, description="number of checkpoints to keep")
    every: int | None = Field(
        None,
        gt=0,
        description="evaluated are those at multiples of this step count, kept until then; null: checkpoint.every",
    )


def _form_of_best(value: Any) -> str:
    return "result" if isinstance(value, dict | BestEvaluated) else "count"


KeepBest = Annotated[
    Annotated[int, Field(ge=0), Tag("count")] | Annotated[BestEvaluated, Tag("result")], Discriminator(_form_of_best)
]


class CheckpointConfig(Strict):
    """When to save, which checkpoints to keep, and which settings may change on resume."""

    every: int = Field(1000, gt=0, description="steps between periodic checkpoints")
    keep: int = Field(2, gt=0, description="number of newest checkpoints to keep")
    keep_every: int = Field(0, ge=0, description="also keep the checkpoints at multiples of this step count; 0: none")
    keep_hours: float = Field(0.0, ge=0, description="also keep one checkpoint per this many hours; 0: none")
    keep_best: KeepBest = Field(
        0, description="also keep this many checkpoints with the best metric, or with the best result of a probe"
    )
    best_by: str = Field("loss", description="name of that metric in TensorBoard: loss, terms/ld, health/target_std")
    best_is: Literal["lowest", "highest"] = "lowest"
    failed_save: Literal["stop", "warn"] = Field("stop", description="effect of a failed save at the next step")
    accept: tuple[str, ...] = Field((), description="settings, or data.sources.NAME, that may change on resume")

    @model_validator(mode="after")
    def _evaluated_steps_are_saved(self) -> "CheckpointConfig":
        best = self.keep_best
        if isinstance(best, BestEvaluated) and best.every is not None and best.every % self.every:
            raise SettingError(
                ("keep_best", "every"), f"{best.every} is not a multiple of checkpoint.every ({self.every})"
            )
        return self

    @property
    def best_evaluated(self) -> BestEvaluated | None:
        """``keep_best`` by the result of a probe, with ``every``; None by a metric, or not at all."""
        if not isinstance(self.keep_best, BestEvaluated):
            return None
        return self.keep_best.model_copy(update={"every": self.keep_best.every or self.every})

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
    trackers: tuple[TrackerName, ...] = Field((), description="also send the logged metrics to wandb, mlflow, trackio")
    tracker_wait: float = Field(30.0, ge=0, description="longest wait for the trackers at the end, in seconds")
    wandb: WandbConfig = WandbConfig()
    mlflow: MlflowConfig = MlflowConfig()
    trackio: TrackioConfig = TrackioConfig()

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, names: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _health_is_logged(self) -> "MonitorConfig":
        if self.health_every % self.log_every:
            raise ValueError(f"health_every ({self.health_every}) must be a multiple of log_every ({self.log_every})")
        return self
