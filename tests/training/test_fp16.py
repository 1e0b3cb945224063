"""fp16 with a dynamic loss scale. Autocast in fp16 also exists on a CPU, so these runs are real, only slow."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from hpc_jepa.checkpoint.layout import latest
from hpc_jepa.checkpoint.reader import open_tensors
from hpc_jepa.config.training import EngineConfig, LossScaleConfig
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.runs.metrics_log import read_metrics
from hpc_jepa.training import build, loop
from hpc_jepa.training.loss_scale import LossScaler
from hpc_jepa.training.nonfinite import NonFiniteGuard

WORKER = Path(__file__).parent / "workers" / "fp16_steps.py"
CPU = torch.device("cpu")
FINE, OVERFLOW = torch.tensor(1.0), torch.tensor(float("inf"))
NO_FAULT = torch.tensor(False)


@pytest.fixture(scope="module")
def results(launch, tmp_path_factory):
    output = tmp_path_factory.mktemp("fp16") / "results.pt"
    launch(WORKER, output, processes=2)
    return torch.load(output)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("grad_clip", [0.0, 0.1])
def test_a_scale_changes_no_bit_of_a_float32_model(grad_clip, stage, results):
    plain, scaled = (results[precision, stage, grad_clip, False] for precision in ("fp32", "fp16"))
    assert scaled["norms"] == plain["norms"]
    for name, weight in plain["weights"].items():
        assert torch.equal(scaled["weights"][name], weight), name
    assert scaled["scales"] == [[2.0**14] * 2, [2.0**14] * 2, [2.0**15] * 2, [2.0**15] * 2]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_overflow_on_one_rank_skips_the_update_on_all_and_is_no_fault(stage, results):
    result = results["fp16", stage, 0.1, True]
    assert result["unchanged"] == [False, False, True, False]
    assert result["scales"] == [[2.0**14] * 2, [2.0**14] * 2, [2.0**13] * 2, [2.0**13] * 2]
    assert result["faults"] == [0.0, 0.0, 0.0, 0.0] and result["overflows"] == 1.0


def test_the_scale_falls_with_an_overflow_and_rises_after_a_window():
    scaler = LossScaler(LossScaleConfig(initial=8, window=2, min=2), CPU)
    scales = []
    for norm in (OVERFLOW, FINE, FINE, FINE, OVERFLOW, OVERFLOW, FINE, FINE):
        scaler.update(norm, NO_FAULT)
        scales.append(scaler.scale.item())
    assert scales == [4, 4, 8, 8, 4, 2, 2, 4]
    assert scaler.metrics()["overflow_steps"] == 3 and scaler.metrics()["overflow_steps"] == 0


def test_at_the_smallest_scale_a_nonfinite_gradient_is_a_fault():
    scaler = LossScaler(LossScaleConfig(initial=2, min=2), CPU)
    assert not scaler.can_fall and not scaler.update(OVERFLOW, NO_FAULT)
    assert scaler.scale == 2


def test_a_nonfinite_loss_is_a_fault_and_leaves_the_scale():
    scaler = LossScaler(LossScaleConfig(), CPU)
    before = scaler.state.clone()
    assert not scaler.update(OVERFLOW, torch.tensor(True))
    assert torch.equal(scaler.state, before)


def test_an_overflow_neither_ends_nor_lengthens_a_series_of_faults():
    guard = NonFiniteGuard(torch.nn.Parameter(torch.zeros(1)), CPU)
    for skipped, overflow in ((True, False), (False, True), (True, False)):
        guard.nonfinite(torch.tensor(0.0), torch.tensor(True))
        guard.count_step(torch.tensor(skipped), torch.tensor(overflow))
    assert guard.consecutive() == 2


@pytest.fixture
def emulated(monkeypatch, configure):
    """``emulated(**changes)``: a run in fp16 on this CPU, whose scale starts so high that gradients overflow."""
    monkeypatch.setattr(build, "require_fp16_device", lambda engine, device: None)

    def make(stage=1, initial=2**24, window=4, **changes):
        scale = {"initial": initial, "window": window}
        engine = {"precision": "fp16", "batch_size": 4, "zero_stage": stage, "loss_scale": scale}
        return configure(engine=engine, **changes)

    return make


@pytest.mark.parametrize("stage", [1, 3])
def test_an_interrupted_run_continues_with_its_scale_bit_for_bit(stage, emulated, metrics_of):
    whole = emulated(stage, study="whole")
    loop.train(whole, lambda record: None)

    def fail(record):
        if record.step == 9:
            raise HpcJepaError("planned")

    halves = emulated(stage, study="halves")
    with pytest.raises(HpcJepaError, match="planned"):
        loop.train(halves, fail)
    assert loop.train(halves, lambda record: None) == "done"
    assert metrics_of(halves.folder) == metrics_of(whole.folder)

    records = read_metrics(whole.folder / "metrics.jsonl")
    scales = [record.loss_scale for record in records]
    assert scales[0] == 2.0**23 and len(set(scales)) > 2
    assert sum(record.overflow_steps for record in records) > 1
    assert all(record.skipped_steps == 0 for record in records)
    saved = [open_tensors(latest(config.folder).path) for config in (whole, halves)]
    assert saved[0].keys() == saved[1].keys() and "loss_scale" in saved[0]
    for name, tensor in saved[0].items():
        assert torch.equal(tensor, saved[1][name]), name
    assert saved[0]["loss_scale"][0] == scales[-1]


def test_losses_are_those_of_float32_up_to_the_precision(emulated, configure):
    losses = {}
    for config in (emulated(initial=2**10, study="half"), configure(study="full")):
        loop.train(config, lambda record: None)
        losses[config.study] = [record.loss for record in read_metrics(config.folder / "metrics.jsonl")]
    assert losses["half"] != losses["full"]
    assert losses["half"] == pytest.approx(losses["full"], rel=2e-2)


def test_without_a_gpu_it_is_refused(configure):
    with pytest.raises(InputError, match=r"engine\.precision"):
        loop.train(configure(engine={"precision": "fp16", "batch_size": 4}), lambda record: None)
    with pytest.raises(ValidationError, match="device=cpu"):
        EngineConfig(precision="fp16", device="cpu")


@pytest.mark.parametrize(
    ("engine", "key"),
    [
        ({"precision": "bf16", "loss_scale": {"initial": 8}}, "bf16"),
        ({"precision": "fp16", "loss_scale": {"initial": 1000}}, "power of two"),
        ({"precision": "fp16", "loss_scale": {"initial": 2, "min": 4}}, "larger"),
    ],
)
def test_scales_that_make_no_sense_are_refused(engine, key):
    with pytest.raises(ValidationError, match=key):
        EngineConfig.model_validate(engine)


def test_a_branch_that_continues_takes_over_the_scale(emulated, metrics_of):
    kept = {"every": 4, "keep": 9}
    whole = emulated(study="whole", checkpoint=kept)
    loop.train(whole, lambda record: None)
    init = {"run": str(whole.folder), "step": 4, "what": "all", "count": "continue"}
    branch = emulated(study="branch", checkpoint=kept, init=init)
    loop.train(branch, lambda record: None)
    assert (
        metrics_of(branch.folder)[1:] == metrics_of(whole.folder)[5:]
    )  # the first counts overflows from its own start


@pytest.mark.gpu
def test_a_gpu_trains_in_fp16_and_continues_bit_for_bit(configure, metrics_of):
    settings = {"precision": "fp16", "batch_size": 4, "deterministic": True, "loss_scale": {"window": 4}}
    whole = configure(study="whole", engine=settings)
    loop.train(whole, lambda record: None)

    def fail(record):
        if record.step == 9:
            raise HpcJepaError("planned")

    halves = configure(study="halves", engine=settings)
    with pytest.raises(HpcJepaError, match="planned"):
        loop.train(halves, fail)
    loop.train(halves, lambda record: None)
    assert metrics_of(halves.folder) == metrics_of(whole.folder)
