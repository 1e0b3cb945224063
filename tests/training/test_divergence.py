"""Loss spikes, collapse and too many skipped steps are reported, and stop the run if configured."""

from collections import Counter

import pytest
import torch

from hpc_jepa.config.training import GuardConfig
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.runs.metrics_log import MetricsRecord
from hpc_jepa.training.divergence import DivergenceMonitor, TargetSample, effective_rank, sample_target, target_health
from hpc_jepa.training.nonfinite import SkippedSteps
from hpc_jepa.types import Padding

NONE = SkippedSteps(0, 0, Counter())


def record(step, loss=1.0, **health):
    healthy = {"target_std": 1.0, "effective_rank": 9.0}
    return MetricsRecord(step=step, loss=loss, health=healthy | health if health else None)


def test_skipped_steps_are_reported_by_rank_and_too_many_in_a_row_stop_the_run(caplog):
    monitor = DivergenceMonitor(GuardConfig(max_consecutive_skips=3))
    monitor.check(record(10, float("nan")), SkippedSteps(4, 2, Counter({1: 4, 5: 1})))
    assert all(part in caplog.text for part in ("10", "rank 1 (4)", "rank 5 (1)"))
    with pytest.raises(HpcJepaError, match=r"rank 1 \(3\).*schedule\.lr"):
        monitor.check(record(20, float("nan")), SkippedSteps(3, 3, Counter({1: 3})))


@pytest.mark.parametrize("action", ["off", "warn", "stop"])
def test_a_loss_spike_is_measured_against_the_median(action, caplog):
    monitor = DivergenceMonitor(GuardConfig(loss_spike=action, spike_factor=3.0, spike_window=5))
    for step, loss in enumerate([9.0, 1.0, 1.1, 0.9, 1.0, 2.9]):  # 2.9 is below three times the median of 1.0
        monitor.check(record(step, loss), NONE)
    assert caplog.text == ""
    if action == "stop":
        with pytest.raises(HpcJepaError, match=r"step 6: .*3\.2"):
            monitor.check(record(6, 3.2), NONE)
    else:
        monitor.check(record(6, 3.2), NONE)
        assert ("step 6: " in caplog.text) == (action == "warn")


@pytest.mark.parametrize("health", [{"target_std": 1e-5}, {"effective_rank": 1.1}])
def test_a_collapse_is_reported_or_stops_the_run(health, caplog):
    DivergenceMonitor(GuardConfig()).check(record(7, **health), NONE)
    assert "step 7: target collapse" in caplog.text
    with pytest.raises(HpcJepaError, match="step 7"):
        DivergenceMonitor(GuardConfig(collapse="stop")).check(record(7, **health), NONE)


def test_healthy_metrics_raise_no_alarm(caplog):
    monitor = DivergenceMonitor(GuardConfig(loss_spike="stop", collapse="stop"))
    for step in range(50):
        monitor.check(record(step, 2.0 - step / 50, target_std=0.5), NONE)
    assert caplog.text == ""


def test_effective_rank_counts_the_directions_of_the_target():
    directions = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0][:5]
    coordinates = torch.eye(5).repeat(40, 1) * 3
    target = (coordinates @ directions)[None]
    measured = target_health(sample_target(target - target.mean(1, keepdim=True), levels=1, tokens=1000))
    # Centring five unit vectors leaves four directions of equal weight.
    assert effective_rank(measured.covariance).item() == pytest.approx(4.0, abs=1e-4)
    padding = Padding(torch.tensor([30, 50]), torch.tensor(0.0), torch.tensor(0.0))
    some = torch.randn(2, 50, 16)
    without = target_health(sample_target(some, padding, levels=1, tokens=100))
    alone = target_health(TargetSample(torch.cat([some[0, :30], some[1]]).double()))
    torch.testing.assert_close(without.target_std, alone.target_std)
    torch.testing.assert_close(without.covariance, alone.covariance)
    collapsed = target_health(sample_target(torch.ones(2, 50, 16), levels=1, tokens=100))
    assert collapsed.target_std.item() == 0.0
