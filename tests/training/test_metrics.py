"""Metrics reach the host without holding it up."""

import torch

from hpc_jepa.config.training import GuardConfig, MonitorConfig
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.batches import DataCounts
from hpc_jepa.training.divergence import DivergenceMonitor, TargetHealth, effective_rank
from hpc_jepa.training.metrics import HostCopy, MetricsLogger
from hpc_jepa.training.schedules import ScheduleValues


class OnGpu:
    """A tensor on a GPU whose copy has been queued."""

    is_cuda, is_cpu = True, False

    def __init__(self, tensor):
        self.tensor = tensor

    def to(self, device, non_blocking):
        assert device == "cpu" and non_blocking
        return self.tensor


class RecordedEvent:
    """A CUDA event that notes when the host waits for it."""

    waits: list["RecordedEvent"]

    def __init__(self, blocking):
        self.recorded = False

    def record(self):
        self.recorded = True

    def synchronize(self):
        assert self.recorded
        self.waits.append(self)


def test_the_host_waits_for_the_copy_and_not_for_later_work(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", RecordedEvent)
    RecordedEvent.waits = []
    copy = HostCopy(OnGpu(torch.arange(3.0)))
    assert RecordedEvent.waits == []
    assert copy.wait().tolist() == [0.0, 1.0, 2.0] and len(RecordedEvent.waits) == 1


def test_the_effective_rank_of_a_gpu_is_that_of_a_cpu_averaged_over_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "Event", RecordedEvent)
    RecordedEvent.waits, records = [], []
    sample = torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance = sample.T @ sample
    (tmp_path / "run").mkdir()
    logger = MetricsLogger(
        RunDir(tmp_path / "run"),
        MonitorConfig(tensorboard=False),
        divergence=DivergenceMonitor(GuardConfig()),
        batch_size=2,
        first_step=0,
        on_log=records.append,
        gather=lambda rows: torch.cat([rows, rows + 2.0]),  # the other process measured 2 more
    )
    scalars = {"loss": torch.tensor(1.0), "gradient_norm": torch.tensor(2.0)}
    health = TargetHealth(torch.tensor(0.5), OnGpu(covariance))
    counts = DataCounts({"videos": 0.5}, 3, {}, {})
    with logger:
        logger.log(0, scalars, {}, ScheduleValues(1e-3, 0.0, 0.9), health, torch.zeros(3), 0.0, counts)
        assert records == []
    assert (records[0].passes, records[0].shared_clips) == ({"videos": 0.5}, 3)
    assert records[0].health.target_std == 0.5
    assert records[0].health.effective_rank == float(effective_rank(covariance).float()) + 1.0
