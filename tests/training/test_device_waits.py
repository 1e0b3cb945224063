"""On emulated CUDA streams a step has no race, and the host waits for the device only where the documents say so.

DeepSpeed takes the branches that it takes on a GPU. ``docs/decisions/deepspeed.md`` has the table.
"""

from pathlib import Path

import pytest
import torch

WORKERS = Path(__file__).parent / "workers"
WARM_UP = 2  # at stage 3 DeepSpeed records the order of modules in these steps


@pytest.fixture(scope="module")
def results(launch, tmp_path_factory):
    output = tmp_path_factory.mktemp("waits") / "results.pt"
    launch(WORKERS / "device_waits.py", output, processes=2)
    return torch.load(output)


@pytest.mark.parametrize("grad_clip", [0.0, 1e-2])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_host_never_waits_at_stages_0_to_2(stage, grad_clip, results):
    result = results[stage, False, grad_clip]
    assert all(not waits for waits in result["waits"])
    assert not any(result["host_syncs"])


@pytest.mark.parametrize("grad_clip", [0.0, 1e-2])
def test_at_stage_3_deepspeed_waits_for_streams_but_never_for_the_whole_device(grad_clip, results):
    result = results[3, False, grad_clip]
    for waits, host_syncs in list(zip(result["waits"], result["host_syncs"], strict=True))[WARM_UP:]:
        assert waits.get("device", 0) == 0 and waits["stream"] == 1
        assert host_syncs == 1


@pytest.mark.parametrize("stage", [1, 2])
def test_an_overlapping_exchange_waits_for_the_device_once_per_step(stage, results):
    assert results[stage, True, 0.0]["waits"] == [{"device": 1}] * len(results[stage, True, 0.0]["waits"])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_overlapping_exchange_has_no_race_and_changes_no_bit(stage, results):
    overlapping, plain = results[stage, True, 0.0], results[stage, False, 0.0]
    assert overlapping["races"] == []
    assert overlapping["norms"] == plain["norms"]
    assert all(torch.equal(overlapping["weights"][name], weight) for name, weight in plain["weights"].items())


@pytest.mark.parametrize("stage", [1, 3])
def test_a_missing_wait_between_streams_is_found(stage, results):
    assert results[f"defect {stage}"]["races"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_clips_as_stage_0_does(stage, results):
    clipped, plain = results[0, False, 1e-2], results[0, False, 0.0]
    assert any(not torch.equal(clipped["weights"][name], weight) for name, weight in plain["weights"].items())
    ours = results[stage, False, 1e-2]
    torch.testing.assert_close(torch.tensor(ours["norms"]), torch.tensor(clipped["norms"]), rtol=1e-4, atol=0)
    for name, weight in clipped["weights"].items():
        torch.testing.assert_close(ours["weights"][name], weight, rtol=1e-3, atol=1e-5)
