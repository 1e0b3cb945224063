"""Detect divergence in the logged metrics: loss spikes, representation collapse, too many skipped steps."""

import logging
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_jepa.config.training import Action, GuardConfig
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.runs.metrics_log import MetricsRecord
from hpc_jepa.training.nonfinite import SkippedSteps
from hpc_jepa.types import Padding

LOG = logging.getLogger(__name__)


class TargetHealth(NamedTuple):
    """What the collapse metrics of the target features are made of, on the device.

    target_std: [] standard deviation over tokens, averaged over channels.
    covariance: [D, D] float64, for :func:`effective_rank`.
    """

    target_std: Tensor
    covariance: Tensor


class TargetSample(NamedTuple):
    """Target features at some tokens [n, D] float64, and 1 for those that are no padding [n, 1]; None: all are."""

    features: Tensor
    real: Tensor | None = None


HealthSampler = Callable[[Tensor, Padding | None], TargetSample]
"""Takes the features of some tokens from those of all tokens [B, N, levels * D]."""


@torch.no_grad()
def sample_target(target: Tensor, padding: Padding | None = None, *, levels: int, tokens: int) -> TargetSample:
    """The last level of ``target`` [B, N, levels * D] at about ``tokens`` evenly spaced tokens."""
    last = target.flatten(0, 1)[:, -(target.shape[-1] // levels) :]
    sample = _evenly_spaced(last, tokens).double()  # squares of small values underflow in fp32
    if padding is None:
        return TargetSample(sample)
    numbers = torch.arange(target.shape[1], device=target.device).expand(len(target), -1)
    return TargetSample(sample, _evenly_spaced(padding.is_real(numbers).flatten(), tokens)[:, None])


def _evenly_spaced(rows: Tensor, count: int) -> Tensor:
    return rows[:: max(rows.shape[0] // count, 1)][:count]


@torch.no_grad()
def target_health(sample: TargetSample) -> TargetHealth:
    """Statistics of sampled target features, without padding. No host sync."""
    features, real = sample
    if real is None:
        centred = features - features.mean(0)
        return TargetHealth(centred.square().mean(0).sqrt().mean(), centred.T @ centred)
    count = real.sum().clamp(min=1)
    centred = (features - (features * real).sum(0) / count) * real
    return TargetHealth((centred.square().sum(0) / count).sqrt().mean(), centred.T @ centred)


@torch.no_grad()
def effective_rank(covariance: Tensor) -> Tensor:
    """``exp(-sum p log p)`` with p the normalised singular values of the centred sample (Roy and Vetterli 2007).

    From the unnormalised covariance [D, D] of the sample. 1 if all tokens are on a line, D if they are isotropic.
    On a GPU the host waits: cuSOLVER reports its status to the host.
    """
    # eigvalsh raises on non-finite input; target_std is non-finite then, which the logger reports with the step.
    singular = torch.linalg.eigvalsh(covariance.nan_to_num()).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny)
    return torch.exp(torch.special.entr(share).sum())


class DivergenceMonitor:
    """Checks every logged step. All ranks see the same metrics, so they take the same action."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.spike_window)

    def check(self, record: MetricsRecord, skipped: SkippedSteps) -> None:
        """Log a warning or raise HpcJepaError, as configured under ``guard``."""
        if skipped.steps:
            self._report_skipped(record.step, skipped)
            return  # the loss may be non-finite
        if spike := self._spike(record.loss):
            _act(self._config.loss_spike, f"step {record.step}: {spike}")
        if collapse := self._collapse(record):
            _act(self._config.collapse, f"step {record.step}: {collapse}")

    def _report_skipped(self, step: int, skipped: SkippedSteps) -> None:
        limit = self._config.max_consecutive_skips
        action: Action = "stop" if skipped.consecutive >= limit else "warn"
        remedy = f" ({limit} in a row is the limit); lower schedule.lr or use fp32" if action == "stop" else ""
        _act(action, f"steps up to {step}: {skipped}{remedy}")

    def _spike(self, loss: float) -> str:
        usual = median(self._losses) if len(self._losses) == self._losses.maxlen else None
        self._losses.append(loss)
        if usual is None or loss <= self._config.spike_factor * abs(usual):
            return ""
        return f"loss spike: {loss:.4g}, recent median {usual:.4g}; lower schedule.lr if this repeats"

    def _collapse(self, record: MetricsRecord) -> str:
        if record.health is None:
            return ""
        std, effective_rank = record.health.target_std, record.health.effective_rank
        if std >= self._config.collapse_std and effective_rank >= self._config.collapse_rank:
            return ""
        return f"target collapse: standard deviation {std:.2g}, effective rank {effective_rank:.3g}"


def _act(action: Action, message: str) -> None:
    if action == "stop":
        raise HpcJepaError(f"{message}; stopped, the latest checkpoint is older than the problem")
    if action == "warn" and is_main():
        LOG.warning("%s", message)
