"""A branch with nothing changed continues bit for bit; every other branch says what it took, or why it cannot begin."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from hpc_jepa.checkpoint import reader
from hpc_jepa.checkpoint.layout import latest
from hpc_jepa.config.loading import dump_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.loop import train

N, M = 4, 3
CONSTANT = {"warmup": 0.0, "lr": 1e-3, "lr_final": 1e-3, "phases": {"context_weight": 0.5}}


def silent(record):
    pass


@pytest.fixture
def trunk(configure):
    """A run of N + M steps that kept the checkpoint of step N."""
    config = configure(study="trunk", schedule={"steps": N + M, **CONSTANT}, checkpoint={"every": N, "keep": 9})
    train(config, silent)
    return config


@pytest.fixture
def branch(trunk, configure):
    """``branch(init, **changes)``: configuration of a run that begins at step N of the trunk."""

    def make(init=None, steps=M, **changes):
        init = {"run": str(trunk.folder), "step": N, **(init or {})}
        known = {"study": "branch", "schedule": {"steps": steps, **CONSTANT}, "checkpoint": {"every": 9}}
        return configure(**{**known, **changes}, init=init)

    return make


def tensors_of(config):
    return reader.open_tensors(latest(config.folder).path)


def assert_equal_tensors(one, other):
    one, other = tensors_of(one), tensors_of(other)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def losses(config):
    lines = (config.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("count", ["own", "continue"])
def test_a_branch_with_nothing_changed_continues_bit_for_bit(count, stage, configure):
    engine = {"precision": "fp32", "batch_size": 4, "zero_stage": stage}
    schedule, kept = {"steps": N + M, **CONSTANT}, {"every": N, "keep": 9}
    trunk = configure(study="trunk", engine=engine, schedule=schedule, checkpoint=kept)
    train(trunk, silent)
    schedule = {"steps": M if count == "own" else N + M, **CONSTANT}
    init = {"run": str(trunk.folder), "step": N, "count": count}
    config = configure(study="branch", engine=engine, schedule=schedule, init=init)
    assert train(config, silent) == "done"
    assert latest(config.folder).step == (M if count == "own" else N + M)
    assert_equal_tensors(trunk, config)
    assert losses(config) == losses(trunk)[N:]


def test_an_interrupted_branch_ends_as_an_undisturbed_one(trunk, branch, caplog):
    config = branch()

    def interrupt(record):
        if record.step == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(config, interrupt) == "interrupted"
    assert latest(config.folder).step < M
    shutil.rmtree(trunk.folder / "checkpoints" / f"step-{N:08d}")  # no longer needed
    caplog.set_level("INFO", logger="hpc_jepa")
    assert train(config, silent) == "done"
    assert str(config.folder) in caplog.text and "init" in caplog.text  # its own checkpoint wins, and the log says so
    assert losses(config) == losses(trunk)[N:]
    assert_equal_tensors(trunk, config)


def test_a_branch_of_a_branch_goes_on_with_the_clips(trunk, branch, configure):
    first = branch(steps=1)
    train(first, silent)
    init = {"run": str(first.folder)}  # its last step
    second = configure(study="second", schedule={"steps": M - 1, **CONSTANT}, init=init)
    train(second, silent)
    assert losses(second) == losses(trunk)[N + 1 :]
    origin = RunDir(second.folder).origin
    assert (origin.step, origin.clip_offset, origin.first_step) == (1, N + 1, 0)
    assert len(origin.lines) == 2 and str(trunk.folder) in origin.lines[1]


def test_weights_alone_leave_the_moments_behind(trunk, branch):
    config = branch({"what": "weights"}, schedule={"steps": 0})
    train(config, silent)
    began = tensors_of(config)
    assert not any(name.startswith("exp_avg") for name in began)
    stored = reader.open_tensors(trunk.folder / "checkpoints" / f"step-{N:08d}")
    weights = [name for name in stored if name.startswith(("student", "target", "predictor", "objectives"))]
    assert all(torch.equal(began[name], stored[name]) for name in weights)
    config = branch({"what": "weights"}, study="weights")
    train(config, silent)
    assert losses(config)[0] == losses(trunk)[N] and losses(config)[2] != losses(trunk)[N + 2]
    assert tensors_of(config)["updates"] == M


def test_a_branch_may_change_an_objective_and_sees_the_same_clips(trunk, branch):
    """Counterfactual replay: the first step differs in the changed term alone."""
    config = branch({"count": "continue"}, steps=N + M, objectives=["fwm", "hw", "delta", {"ac": {"hidden": 8}}])
    train(config, silent)
    origin = RunDir(config.folder).origin
    assert {name.split(".")[2] for name in origin.left_out} == {"ld"}
    assert {name.split(".")[2] for name in origin.drawn} == {"ac"}

    def terms(run):
        return {line["step"]: line["terms"] for line in map(json.loads, (run / "metrics.jsonl").open())}

    own, before = terms(config.folder), terms(trunk.folder)
    assert set(own) == set(range(N, N + M))
    for name in ("prediction", "context", "fwm_static", "hw"):
        assert own[N][name] == before[N][name]
    assert {"delta", "ac"} <= set(own[N])


def test_a_branch_with_ema_from_a_run_without_copies_the_student(configure):
    trunk = configure(study="trunk", ema="never", schedule={"steps": 2})
    train(trunk, silent)
    config = configure(study="branch", schedule={"steps": 0}, init={"run": str(trunk.folder), "what": "weights"})
    train(config, silent)
    began = tensors_of(config)
    for name in (name for name in began if name.startswith("student.")):
        assert torch.equal(began[name], began[f"target.{name.removeprefix('student.')}"])
    assert RunDir(config.folder).origin.copied == "target"


def test_two_processes_branch_like_one(trunk, branch, launch, tmp_path):
    alone, together = branch(study="alone"), branch(study="together")
    train(alone, silent)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(together))
    launch(Path(__file__).parent / "workers" / "run.py", path, processes=2)
    assert losses(together) == pytest.approx(losses(alone), rel=1e-4)


def test_impossible_branches_are_refused_and_leave_nothing_behind(trunk, branch, configure):
    wide = {"encoder": {"width": 64, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]}}
    cases = [
        ({"step": 5}, {}, rf"init\.step: .*step 5; kept: {N}, {N + M}"),
        ({"run": "nowhere"}, {}, r"init\.run: nowhere"),
        ({}, {"model": wide}, r"init\.run: .*model\.encoder\.width 32 -> 64"),
        ({"run": str(trunk.folder.parents[3] / "branch/test/baseline/seed-3")}, {}, r"init\.run: .*itself"),
    ]
    for init, changes, message in cases:
        config = branch(init, **changes)
        with pytest.raises(InputError, match=message):
            train(config, silent)
        assert config.folder == trunk.folder or not config.folder.exists()
    shutil.rmtree(trunk.folder / "checkpoints" / f"step-{N + M:08d}")
    with pytest.raises(InputError, match=rf"init\.step: .*last step .*kept: {N}"):
        train(branch({"step": None}), silent)


def test_a_damaged_origin_is_refused(trunk, branch):
    (file, *_) = (trunk.folder / "checkpoints" / f"step-{N:08d}").glob("training-*")
    file.write_bytes(file.read_bytes()[:-1])
    config = branch()
    with pytest.raises(CheckpointError, match=file.name):
        train(config, silent)
    assert not config.folder.exists()


def test_init_for_a_run_that_began_without_it_is_refused(trunk, branch, configure):
    """Its own checkpoint would win."""
    begun = configure(study="begun", schedule={"steps": M, **CONSTANT})
    train(begun, silent)
    config = branch(study="begun")
    with pytest.raises(InputError, match=rf"init: .*begun.*step {M}"):
        train(config, silent)
    assert latest(begun.folder).step == M


@pytest.mark.parametrize(
    ("init", "key"),
    [
        ("{}", "init"),
        ("{run: a, file: b.pt}", "init"),
        ("{file: b.pt}", "init"),
        ("{file: b.pt, sha256: 12}", "init.sha256"),
        ("{run: a, parts: [encoder]}", "init"),
        ("{run: a, step: 3, count: own, stop: 1}", "init.stop"),
        ("{run: a, count: continue}", "init.step"),
        ("{run: a, count: continue, step: 30000}", "init.step"),
        (f"{{file: b.pt, sha256: {64 * 'a'}, parts: [predictor]}}", "init.parts"),
        (f"{{file: b.pt, sha256: {64 * 'a'}, step: 3}}", "init"),
    ],
)
def test_wrong_keys_are_refused_with_file_line_and_key(tmp_path, init, key):
    file = tmp_path / "run.yaml"
    file.write_text(f"regime: a\ndata: {{sources: {{none: {{shards: none}}}}}}\ninit: {init}\n")
    with pytest.raises(InputError, match=rf"run.yaml:3: {key}: "):
        read_config(RunConfig, [file])


def test_the_place_of_a_file_is_no_part_of_the_outcome(configure):
    one, two = (configure(init={"file": path, "sha256": 64 * "a"}) for path in ("a.pt", "b.pt"))
    assert one.fingerprint() == two.fingerprint() != configure().fingerprint()
