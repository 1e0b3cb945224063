"""What endangers a run: numbers that are none, a loss that runs away, a collapse, a step that never ends."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from hpc_jepa.config.training import GuardConfig
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.runs.metrics_log import MetricsRecord
from hpc_jepa.training.divergence import DivergenceMonitor
from hpc_jepa.training.nonfinite import SkippedSteps

WORKERS = Path(__file__).parent / "workers"
NONE = SkippedSteps(0, 0, Counter())


@pytest.fixture(scope="module")
def broken_steps(launch, tmp_path_factory):
    """What happened in two processes when one of them met a number that is none, at every ZeRO stage."""
    output = tmp_path_factory.mktemp("guards") / "result.pt"
    launch(WORKERS / "broken_steps.py", output, processes=2)
    return torch.load(output)


@pytest.mark.parametrize(("what", "seen"), [("loss", 1.0), ("gradient", 1.0), ("unseen", 0.0)])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_broken_step_changes_nothing_and_names_the_process_that_saw_it(stage, what, seen, broken_steps):
    result = broken_steps[stage, what]
    assert result["weights_after_broken"] == "unchanged"
    assert result["weights_after_next"] == "changed"
    assert result["updates"] == 3.0, "two sound steps before, one after"
    assert result["counts"] == [1.0, 1.0, 0.0, seen], "one step, one in a row, rank 1 or only the norm of the sum"
    assert result["counts_after"] == [0.0, 0.0, 0.0, 0.0]


def line(step, loss=1.0, **health):
    whole = {"target_std": 1.0, "effective_rank": 9.0} | health
    return MetricsRecord(step=step, loss=loss, health=whole if health else None)


def test_skipped_steps_are_reported_and_too_many_in_a_row_stop_the_run(caplog):
    divergence = DivergenceMonitor(GuardConfig(max_consecutive_skips=3))
    divergence.check(line(10, float("nan")), SkippedSteps(4, 2, Counter({1: 4, 5: 1})))
    assert "steps up to 10: 4 skipped, loss or gradient not finite on rank 1 (4), rank 5 (1)" in caplog.text
    with pytest.raises(HpcJepaError, match=r"rank 1 \(3\); 3 in a row are too many: lower schedule\.lr .*stopped"):
        divergence.check(line(20, float("nan")), SkippedSteps(3, 3, Counter({1: 3})))


@pytest.mark.parametrize("action", ["off", "warn", "stop"])
def test_a_loss_that_runs_away_is_noticed_against_the_usual_one(action, caplog):
    divergence = DivergenceMonitor(GuardConfig(loss_spike=action, spike_factor=3.0, spike_window=5))
    for step, loss in enumerate([9.0, 1.0, 1.1, 0.9, 1.0, 2.9]):  # the first falls, and 2.9 is below three times 1.0
        divergence.check(line(step, loss), NONE)
    assert caplog.text == ""
    if action == "stop":
        with pytest.raises(HpcJepaError, match=r"step 6: loss 3\.2 where 1 is usual"):
            divergence.check(line(6, 3.2), NONE)
    else:
        divergence.check(line(6, 3.2), NONE)
        assert ("step 6: loss 3.2 where 1 is usual" in caplog.text) == (action == "warn")


@pytest.mark.parametrize("health", [{"target_std": 1e-5}, {"effective_rank": 1.1}])
def test_a_collapse_is_noticed(health, caplog):
    DivergenceMonitor(GuardConfig()).check(line(7, **health), NONE)
    assert "step 7: the target collapses" in caplog.text
    with pytest.raises(HpcJepaError, match="the target collapses"):
        DivergenceMonitor(GuardConfig(collapse="stop")).check(line(7, **health), NONE)


def test_healthy_figures_are_passed_over(caplog):
    divergence = DivergenceMonitor(GuardConfig(loss_spike="stop", collapse="stop"))
    for step in range(50):
        divergence.check(line(step, 2.0 - step / 50, target_std=0.5), NONE)
    assert caplog.text == ""


def test_when_a_collective_is_stuck_every_process_prints_its_stacks_and_ends(launch):
    finished = launch(WORKERS / "stuck.py", processes=2, check=False)
    assert finished.returncode != 0
    for rank in (0, 1):
        assert f"rank {rank}: nothing was done for 2 s; the stacks of its threads:" in finished.stderr
    # Stacks are written piece by piece, at the same time: names stay whole, lines may not.
    assert "all_reduce" in finished.stderr, "rank 0 waits for the sum"
    assert "oversleep" in finished.stderr, "rank 1 is why"


def test_a_watchdog_that_hears_something_in_time_stays_quiet():
    program = (
        "import time; from hpc_jepa.training.watchdog import Watchdog\n"
        "with Watchdog(1.0) as watchdog:\n"
        "    for _ in range(8): time.sleep(0.25); watchdog.alive()\n"
        "time.sleep(1.5)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
