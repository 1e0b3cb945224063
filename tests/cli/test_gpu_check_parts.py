"""Parts of the check of a GPU machine see what is wrong there."""

import json
import math

import pytest

from hpc_jepa.cli.gpu_check import decoding, kernels, processes, speed, zero_stages
from hpc_jepa.cli.gpu_check.children import Devices
from hpc_jepa.cli.gpu_check.part import Mode, PartContext, SkipPartError
from hpc_jepa.cli.gpu_check.small_training import NAN_STEP, SAVED, STEPS

GOOD = {step: 1.0 - 0.01 * step for step in range(STEPS)}


@pytest.fixture
def context(tmp_path):
    """A rehearsal; ``events()`` are the rows and warnings that the part has reported."""
    return PartContext(Mode(rehearse=True), tmp_path, tmp_path / "events.jsonl")


def events(context):
    return [json.loads(line) for line in context.events.read_text().splitlines()]


def zero_faults(losses=GOOD, skipped=(NAN_STEP,), resumed_after=SAVED):
    row = zero_stages.compare(GOOD, losses)
    resumed = {step: loss for step, loss in losses.items() if step >= resumed_after}
    return zero_stages.faults(1, row, losses, list(skipped), resumed)


def test_a_stage_that_follows_the_cpu_has_no_faults():
    assert zero_faults() == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"losses": {**GOOD, 0: GOOD[0] * 1.0001}}, "first loss"),
        ({"losses": {**GOOD, 15: GOOD[15] * 1.01}}, "1.0e-02"),
        ({"losses": {**GOOD, 15: math.nan}}, "nan"),
        ({"losses": {step: loss for step, loss in GOOD.items() if step != 12}}, "19 of 20"),
        ({"skipped": ()}, "skipped"),
        ({"skipped": (NAN_STEP, NAN_STEP + 1)}, "skipped"),
        ({"resumed_after": 0}, "resumed after 0"),
    ],
)
def test_faults_of_a_stage_are_named(changes, named):
    (fault,) = zero_faults(**changes)
    assert "stage 1" in fault and named in fault


def decoder(monkeypatch, wrong=()):
    """A decoder that shifts the frames of some codecs by so many grey levels, or as a function says, or raises."""
    shifts = dict(wrong)

    def decode(video, frames, codec, rehearse):
        shift = shifts.get((codec.title, codec.bits), 0)
        if isinstance(shift, Exception):
            raise shift
        return frames.astype("float32") + (shift(frames) if callable(shift) else shift), "planted"

    monkeypatch.setattr(decoding, "decode", decode)


@pytest.mark.parametrize(
    ("wrong", "status", "named"),
    [
        ({}, "ok", "8 of 8"),
        ({("HEVC", 8): 12.0}, "failed", "HEVC, 8 bit"),
        ({("HEVC", 8): math.nan}, "failed", "HEVC, 8 bit"),
        ({("HEVC", 8): lambda frames: 10 * (frames > 240)}, "failed", "HEVC, 8 bit"),  # saturated colours only
        ({("HEVC", 10): 12.0}, "ok", "8 of 8"),  # training does not decode it on the GPU
        ({("H.264", 8): RuntimeError("no NVDEC")}, "warning", "7 of 8"),
        ({("AV1", 8): RuntimeError("no AV1 on Hopper")}, "ok", "7 of 8"),
    ],
)
def test_codecs_are_judged_by_what_training_decodes_on_the_gpu(wrong, status, named, context, monkeypatch):
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    decoder(monkeypatch, wrong)
    verdict = decoding.decode_each_codec(context)
    assert verdict.status == status and named in verdict.line
    assert len([event for event in events(context) if "row" in event]) == 8
    assert any("H.264, 8 bit" in event.get("warning", "") for event in events(context)) == (status == "warning")


def test_where_nothing_is_decoded_nothing_is_claimed(context, monkeypatch):
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    decoder(monkeypatch, {(codec.title, codec.bits): RuntimeError("no NVDEC") for codec in decoding.CODECS})
    verdict = decoding.decode_each_codec(context)
    assert verdict.status == "warning" and "0 of 8" in verdict.line and "within" not in verdict.line


JUNIT = """<testsuites><testsuite>
  <testcase classname="tests.kernels.test_patches" name="one"/>
  <testcase classname="tests.kernels.test_patches" name="two[cuda]"><failure message="differs"/></testcase>
  <testcase classname="tests.data.test_loader" name="three"><skipped message="no"/></testcase>
  <testcase classname="tests.data.test_loader" name="four"><error message="setup"/></testcase>
</testsuite></testsuites>"""


def test_outcomes_of_tests_are_counted_by_file(tmp_path):
    (tmp_path / "tests.xml").write_text(JUNIT)
    by_file, failed = kernels.outcomes(tmp_path / "tests.xml")
    assert by_file == {
        "tests/kernels/test_patches.py": {"passed": 1, "failed": 1},
        "tests/data/test_loader.py": {"skipped": 1, "failed": 1},
    }
    assert failed == ["tests/kernels/test_patches.py::two[cuda]", "tests/data/test_loader.py::four"]


def test_one_gpu_skips_the_comparison_of_two(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "visible_devices", lambda: Devices(["NVIDIA H200"], [1], "2.13.0", "13.0"))
    with pytest.raises(SkipPartError, match="two"):
        processes.several_processes(PartContext(Mode(), tmp_path, tmp_path / "events.jsonl"))


def test_without_a_compiler_compiled_steps_are_skipped(context, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SkipPartError, match="no-such-compiler"):
        speed.compiled_steps(context)


def test_a_model_that_fails_does_not_end_the_others(context, monkeypatch):
    def timed(case, settings, rehearse):
        if case is speed.BASE:
            raise speed.HpcJepaError("planted")
        yield {"clips": 64, "error": "out of memory"}
        yield {"clips": 32, "ms": 100.0, "tflops_per_second": 400.0, "mfu": 0.4}

    monkeypatch.setattr(speed, "timed", timed)
    verdict = speed.eager_steps(context)
    assert verdict.status == "failed" and "ViT-B: planted" in verdict.line
    assert [event["row"]["clips"] for event in events(context) if "row" in event] == [32]
    assert any("ViT-L: 64 clips" in event.get("warning", "") for event in events(context))


def test_an_option_that_fails_does_not_end_the_others(context, monkeypatch):
    times = {"engine.tf32=true": 50.0, "engine.precision=fp32": 100.0, "engine.precision=bf16": 40.0}

    def timed(case, settings, rehearse):
        if settings[-1] == "engine.deterministic=true":
            raise speed.HpcJepaError("no deterministic implementation")
        yield {"clips": 8, "ms": times[settings[-1]]}

    monkeypatch.setattr(speed, "timed", timed)
    verdict = speed.option_costs(context)
    assert verdict.status == "failed" and "no deterministic implementation" in verdict.line
    (row,) = [event["row"] for event in events(context)]
    assert row == {"option": "tf32", "clips": 8, "ms": 50.0, "without": 100.0, "ratio": 0.5}
