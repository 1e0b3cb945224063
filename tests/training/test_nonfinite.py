"""Steps with a non-finite loss or gradient change nothing, are counted, and name the rank."""

from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from hpc_jepa.training.engine import optimizer_step
from hpc_jepa.training.nonfinite import SkippedSteps

WORKER = Path(__file__).parent / "workers" / "nonfinite_steps.py"


@pytest.fixture(scope="module")
def results(launch, tmp_path_factory):
    """Two ranks at every ZeRO stage; rank 1 has a non-finite value in its third of four steps."""
    output = tmp_path_factory.mktemp("nonfinite") / "result.pt"
    launch(WORKER, output, processes=2)
    return torch.load(output)


@pytest.mark.parametrize(("where", "seen"), [("loss", 1.0), ("gradient", 1.0), ("past canary", 0.0)])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("grad_clip", [0.0, 0.1])
def test_a_nonfinite_step_is_skipped_and_its_rank_is_named(grad_clip, stage, where, seen, results):
    result = results[stage, where, grad_clip]
    assert result["changed"] == [True, True, False, True]
    assert result["updates"] == 3.0
    assert result["counts"] == [1.0, 1.0, 0.0, seen], "one step, one in a row, rank 1 or only the norm of the sum"
    assert result["counts_after"] == [0.0, 0.0, 0.0, 0.0]


def test_the_norm_of_a_step_that_deepspeed_skipped_is_on_the_device_like_other_metrics():
    engine = Mock(
        loss_scaler=None,
        **{"zero_optimization_stage.return_value": 3, "get_global_grad_norm.return_value": float("inf")},
    )
    assert optimizer_step(engine, torch.zeros((), dtype=torch.bool, device="meta")).device.type == "meta"


def test_counts_are_read_by_rank():
    assert SkippedSteps.from_counts([4.0, 2.0, 0.0, 3.0, 1.0]) == SkippedSteps(4, 2, Counter({1: 3, 2: 1}))
