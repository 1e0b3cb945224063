"""The update of a step, guarded against non-finite values."""

from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from hpc_jepa.training.engine import optimizer_step
from hpc_jepa.training.loss_scale import LossScaler
from hpc_jepa.training.nonfinite import NonFiniteGuard


def guarded_update(engine: DeepSpeedEngine, guard: NonFiniteGuard, loss: Tensor) -> Tensor:
    """Update the weights, unless loss or gradient are non-finite, and count the step; returns the norm of the gradient.

    In fp16 an overflow of the gradient is no fault: the update is skipped and the loss scale halved. Collective.
    """
    scaler: LossScaler | None = engine.loss_scaler
    fault = guard.nonfinite(loss, None if scaler is None else scaler.can_fall)
    norm = optimizer_step(engine, skip=fault)
    skipped = fault | ~norm.isfinite()
    if scaler is None:
        guard.count_step(skipped)
    else:
        overflow = scaler.update(norm, fault)
        guard.count_step(skipped & ~overflow, overflow)
    return norm


def scale_metrics(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    """In fp16, the loss scale and the overflows since the last call."""
    scaler: LossScaler | None = engine.loss_scaler
    return {} if scaler is None else scaler.metrics()
