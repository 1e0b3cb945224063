"""Whole runs on real shards: output, interruption, resumption."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from hpc_jepa.checkpoint import layout, reader
from hpc_jepa.checkpoint.layout import latest
from hpc_jepa.config.loading import dump_config
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import UNTIL
from hpc_jepa.training.loop import train

STEPS = 12


def silent(record):
    pass


def lines_of(config):
    text = (config.folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_writes_metrics_checkpoints_and_events(configure):
    config = configure()
    assert train(config, silent) == "done"

    lines = lines_of(config)
    assert [line["step"] for line in lines] == list(range(STEPS))
    terms = {"prediction", "context", "fwm_static", "fwm_orthogonality", "hw", "ld"}
    for line in lines:
        assert set(line["terms"]) == set(line["coefficients"]) == terms
        weighted = sum(line["coefficients"][name] * line["terms"][name] for name in terms)
        assert line["loss"] == pytest.approx(weighted, rel=1e-5)
        assert (
            line["gradient_norm"] > 0
            and line["clips_per_second"] > 0
            and line["tflops_per_second"] > 0
            and 0 <= line["data_wait_share"] <= 1
        )
    assert [line["step"] for line in lines if "health" in line] == [0, 4, 8]
    assert 1 <= lines[0]["health"]["effective_rank"] <= 32
    state = RunDir(config.folder).state
    assert state.state == "done"
    assert state.passes == lines[-1]["passes"] != lines[0]["passes"]

    events = EventAccumulator(str(config.folder / "events")).Reload()
    logged = [scalar.value for scalar in events.Scalars("terms/ld")]
    assert logged == pytest.approx([line["terms"]["ld"] for line in lines], rel=1e-6)

    tags = set(events.Tags()["scalars"])
    summary = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = Layout.FromString(summary)
    assert [category.title for category in layout.category] == ["loss", "health", "schedule", "speed"]
    patterns = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    shown = {tag for tag in tags if any(re.search(pattern, tag) for pattern in patterns)}
    assert shown == tags
    assert [p for p in patterns if not any(re.search(p, tag) for tag in tags)] == [
        "^overflow_steps$",
        "^loss_scale$",
        "^mfu$",
    ]  # of fp16, and of a GPU

    kept = sorted(path.name for path in (config.folder / "checkpoints").iterdir())
    assert kept == ["latest", "step-00000008", "step-00000012"]
    weights = reader.open_tensors(latest(config.folder).path)
    parts = {"student", "target", "predictor", "objectives", "exp_avg", "exp_avg_sq", "updates", "random"}
    assert {name.split(".")[0] for name in weights} == parts
    assert weights["updates"] == STEPS
    assert not torch.equal(weights["student.blocks.0.mlp.fc1.weight"], weights["target.blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize(("stage", "sampling"), [(0, "replacement"), (1, "passes"), (2, "replacement"), (3, "passes")])
def test_an_interrupted_run_ends_as_an_undisturbed_one_bit_for_bit(stage, sampling, configure, metrics_of):
    engine = {"precision": "fp32", "batch_size": 4, "zero_stage": stage}
    whole = configure(study="whole", engine=engine, schedule={"steps": 7}, checkpoint={"every": 100})
    whole = whole.model_copy(update={"data": whole.data.model_copy(update={"sampling": sampling})})
    train(whole, silent)

    def interrupt(record):
        if record.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    halves = whole.model_copy(update={"study": "halves"})
    assert train(halves, interrupt) == "interrupted"
    assert RunDir(halves.folder).state.state == "interrupted"
    assert 0 < latest(halves.folder).step < 7
    assert train(halves, silent) == "done"

    assert metrics_of(halves.folder) == metrics_of(whole.folder)
    ended = [reader.open_tensors(latest(c.folder).path) for c in (whole, halves)]
    assert ended[0].keys() == ended[1].keys()
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])


def test_a_run_stops_after_chosen_steps_and_goes_on_bit_for_bit(configure, metrics_of):
    engine = {"precision": "fp32", "batch_size": 4}
    whole = configure(study="whole", engine=engine, schedule={"steps": 6}, checkpoint={"every": 100})
    train(whole, silent)
    halves = whole.model_copy(update={"study": "halves"})
    assert train(halves, silent, until=4) == "paused"
    state = RunDir(halves.folder).state
    assert (state.state, state.step, state.steps, state.stopped_by) == ("interrupted", 4, 6, UNTIL)
    assert train(halves, silent, until=4) == train(halves, silent, until=3) == "paused"  # nothing is left to do
    assert RunDir(halves.folder).state.step == RunDir(halves.folder).last_step() == 4
    assert train(halves, silent) == "done"
    assert metrics_of(halves.folder) == metrics_of(whole.folder)
    first, second = (reader.open_tensors(latest(config.folder).path) for config in (whole, halves))
    assert set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)
    assert train(halves, silent, until=4) == "done"
    assert RunDir(halves.folder).state.state == "done"


def test_two_processes_see_the_clips_of_one_and_have_its_losses(configure, launch, tmp_path):
    alone, together = configure(study="alone"), configure(study="together")
    train(alone, silent)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(together))
    launch(Path(__file__).parent / "workers" / "run.py", path, processes=2)
    for one, two in zip(lines_of(alone), lines_of(together), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["terms"] == pytest.approx(one["terms"], rel=1e-3)


def test_a_run_resumed_on_other_ranks_and_stage_sees_the_same_clips(configure, launch, tmp_path):
    whole, moved = configure(study="whole"), configure(study="moved")
    train(whole, silent)

    def interrupt(record):
        if record.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(moved, interrupt) == "interrupted"
    done = latest(moved.folder).step
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(moved.model_copy(update={"engine": moved.engine.model_copy(update={"zero_stage": 3})})))
    launch(Path(__file__).parent / "workers" / "run.py", path, processes=2)
    assert latest(moved.folder).manifest.world_size == 2
    for one, two in zip(lines_of(whole), lines_of(moved), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-7 if one["step"] < done else 1e-5)


def test_a_folder_with_another_configuration_is_refused_and_unchanged(configure):
    config = configure(schedule={"steps": 2})
    train(config, silent)
    before = (config.folder / "config.yaml").read_text()
    with pytest.raises(InputError, match=r"schedule\.steps 2 -> 3"):
        train(configure(schedule={"steps": 3}), silent)
    assert (config.folder / "config.yaml").read_text() == before


def test_an_objective_that_cannot_work_in_the_run_is_refused_from_python_too(configure):
    config = configure(objectives=["kinematic"], semantics={"kinematic_features": "target"}, ema="always")
    with pytest.raises(InputError, match="kinematic"):
        train(config, silent)
    assert not config.folder.exists()


def test_a_refused_run_leaves_nothing_behind(configure, tmp_path):
    engine = {"batch_size": 4, "precision": "fp32"}
    data = {"sources": {"none": {"shards": str(tmp_path / "missing")}}, "clip": {"frames": 8, "size": 32}}
    with pytest.raises(Exception, match="missing"):
        train(configure(data=data, engine=engine), silent)
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_with_other_data_or_settings_is_refused_unless_accepted(configure):
    config = configure(schedule={"steps": 2})
    train(config, silent)
    path = latest(config.folder).path
    manifest = layout.open_checkpoint(path).manifest
    other = manifest.model_copy(update={"data_hashes": {"motion8": "another"}})
    (path / "manifest.json").write_bytes(other.model_copy(update={"checksum": layout.CHECKSUM_PLACEHOLDER}).to_bytes())
    with pytest.raises(CheckpointError, match=r"checkpoint\.accept=\[data\.sources\.motion8\]"):
        train(config, silent)
    longer = configure(schedule={"steps": 3}, checkpoint={"accept": ["schedule"]})
    with pytest.raises(CheckpointError, match=r"data\.sources\.motion8"):
        train(longer, silent)
    longer = configure(schedule={"steps": 3}, checkpoint={"accept": ["schedule.steps", "data"]})
    assert train(longer, silent) == "done"
    assert latest(config.folder).step == 3
    with pytest.raises(InputError, match=r"schedule\.steps 3 -> 4"):
        train(configure(schedule={"steps": 4}), silent)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(configure, caplog):
    config = configure()
    train(config, silent)
    weights = latest(config.folder).path / "weights-0000.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert train(config, silent) == "done"
    assert str(weights) in caplog.text and "damaged-00000012" in caplog.text
    assert lines_of(config)[-1]["step"] == STEPS - 1


def test_zero_steps_save_the_initial_weights(configure):
    config = configure(schedule={"steps": 0})
    assert train(config, silent) == "done"
    weights = reader.open_tensors(latest(config.folder).path)
    for name in (name for name in weights if name.startswith("student.")):
        assert torch.equal(weights[name], weights["target" + name.removeprefix("student")])
