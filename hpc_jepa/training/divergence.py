"""Judge the logged figures: is the loss running away, is the representation collapsing, are steps being lost?"""

import logging
from collections import deque
from statistics import median

from hpc_jepa.config.training import Action, GuardConfig
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.runs.metrics_log import MetricsRecord
from hpc_jepa.training.nonfinite import SkippedSteps

LOG = logging.getLogger(__name__)


class DivergenceMonitor:
    """Looks at every logged line; all processes see the same figures, and so come to the same decision."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=config.spike_window)

    def check(self, record: MetricsRecord, skipped: SkippedSteps) -> None:
        """Warn of, or raise HpcJepaError for, what is wrong with the figures of a step."""
        if skipped.steps:
            self._report_skipped(record.step, skipped)
            return  # the loss of such a line may be no number
        if spike := self._spike(record.loss):
            _act(self._config.loss_spike, f"step {record.step}: {spike}")
        if collapse := self._collapse(record):
            _act(self._config.collapse, f"step {record.step}: {collapse}")

    def _report_skipped(self, step: int, skipped: SkippedSteps) -> None:
        limit = self._config.max_consecutive_skips
        action: Action = "stop" if skipped.consecutive >= limit else "warn"
        advice = f"; {limit} in a row are too many: lower schedule.lr or use fp32" if action == "stop" else ""
        _act(action, f"steps up to {step}: {skipped}{advice}")

    def _spike(self, loss: float) -> str:
        usual = median(self._losses) if len(self._losses) == self._losses.maxlen else None
        self._losses.append(loss)
        if usual is None or loss <= self._config.spike_factor * abs(usual):
            return ""
        return f"loss {loss:.4g} where {usual:.4g} is usual; a lower schedule.lr may help"

    def _collapse(self, record: MetricsRecord) -> str:
        if record.health is None:
            return ""
        spread, directions = record.health.target_std, record.health.effective_rank
        if spread >= self._config.collapse_std and directions >= self._config.collapse_rank:
            return ""
        return f"the target collapses (spread {spread:.2g}, effective rank {directions:.3g})"


def _act(action: Action, message: str) -> None:
    if action == "stop":
        raise HpcJepaError(f"{message}; stopped, the newest checkpoint is from before")
    if action == "warn" and is_main():
        LOG.warning("%s", message)
