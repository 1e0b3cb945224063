"""Retention: every rule of the policy, and the latest valid checkpoint in any case."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hpc_jepa.checkpoint import layout
from hpc_jepa.checkpoint.layout import CheckpointManifest
from hpc_jepa.checkpoint.retention import prune_after_evaluation, prune_checkpoints, retained
from hpc_jepa.cli.app import app
from hpc_jepa.config.training import BestEvaluated, CheckpointConfig
from hpc_jepa.runs.lease import hold_lease
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.step_results import step_results

HOUR = 3600.0


@pytest.fixture
def manifests(info):
    """Steps 10 to 100, half an hour apart; the loss is lowest at step 30, then at 70."""
    losses = {30: 0.1, 70: 0.2}
    return [
        CheckpointManifest(
            **dict(info(step, time=step / 10 * HOUR / 2, metrics={"loss": losses.get(step, step / 10)})),
            format=layout.FORMAT,
            shapes={},
            files={},
        )
        for step in range(10, 101, 10)
    ]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"keep": 2}, {90, 100}),
        ({"keep": 1, "keep_every": 40}, {40, 80, 100}),
        ({"keep": 1, "keep_hours": 2}, {10, 50, 90, 100}),
        ({"keep": 1, "keep_best": 2}, {30, 70, 100}),
        ({"keep": 1, "keep_best": 1, "best_is": "highest"}, {100}),
        ({"keep": 1, "keep_best": 1, "best_by": "health/target_std"}, {100}),
        ({"keep": 2, "keep_every": 50, "keep_hours": 4, "keep_best": 1}, {10, 30, 50, 90, 100}),
    ],
)
def test_the_rules_of_the_policy_add_up(manifests, policy, expected):
    assert retained(manifests, CheckpointConfig(**policy)) == expected


def steps_in(run):
    return [int(path.name.removeprefix("step-")) for path in RunDir(run).checkpoint_dirs()]


def test_a_save_removes_expired_checkpoints_and_keeps_the_best(tmp_path, save):
    for step, loss in enumerate((5.0, 1.0, 4.0, 3.0, 2.0), start=1):
        save(tmp_path, step, {"metrics": {"loss": loss}}, keep=2, keep_best=1)
    assert steps_in(tmp_path) == [2, 4, 5]


def test_the_latest_valid_checkpoint_is_kept_if_newer_ones_are_damaged(tmp_path, save):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=9)
    (RunDir(tmp_path).checkpoint_dir(4) / "manifest.json").write_text("{")
    (RunDir(tmp_path).checkpoint_dir(3) / "weights-0000.safetensors").write_bytes(b"")
    removed = prune_checkpoints(tmp_path, CheckpointConfig(keep=1))
    assert [path.name for path in removed] == ["step-00000001"]
    assert steps_in(tmp_path) == [2, 3, 4]
    assert layout.latest_valid(tmp_path).step == 2


def test_nothing_is_removed_if_no_checkpoint_is_valid(tmp_path, save):
    for step in (1, 2):
        save(tmp_path, step, keep=9)
        (RunDir(tmp_path).checkpoint_dir(step) / "weights-0000.safetensors").write_bytes(b"")
    assert prune_checkpoints(tmp_path, CheckpointConfig(keep=1)) == []


def test_a_failed_removal_is_logged_and_retried(tmp_path, save, monkeypatch, caplog):
    for step in (1, 2):
        save(tmp_path, step, keep=9)

    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr("hpc_jepa.checkpoint.retention.layout.remove_checkpoint", refuse)
        save(tmp_path, 3, keep=1)
    assert steps_in(tmp_path) == [1, 2, 3]
    assert "step-00000001: " in caplog.text and "Operation not permitted" in caplog.text
    save(tmp_path, 4, keep=1)
    assert steps_in(tmp_path) == [4]


def evaluated(run, step, test, validation=None, protocol="p1", probe="linear", weights="target", decides=None, **more):
    """Plant a record of a step; the part of the schema that a policy reads. ``more``: other fields of its result."""
    candidates = [{"setting": {"lr": rate}, "validation": x} for rate, x in enumerate(validation or ())]
    result = {"weights": weights, "probe": probe, "metric": "top1", "value": test, "candidates": candidates}
    result |= more
    record = {"protocol_fingerprint": protocol, "run": {"step": step}, "decides": decides, "results": [result]}
    path = RunDir(run).record_file("own", "standard", step=step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


BEST = {"benchmark": "own", "probe": "linear", "count": 2}


def test_the_best_evaluated_checkpoints_are_kept_and_those_that_wait_for_it(tmp_path, save):
    policy = {"every": 1, "keep": 1, "keep_best": BEST}
    for step in (1, 2, 3, 4):
        save(tmp_path, step, **policy)
    assert steps_in(tmp_path) == [1, 2, 3, 4]
    for step, accuracy in ((1, 0.4), (2, 0.7), (3, 0.6)):
        evaluated(tmp_path, step, accuracy)
    save(tmp_path, 5, **policy)
    assert steps_in(tmp_path) == [2, 3, 4, 5]
    evaluated(tmp_path, 4, 0.7)  # of equal ones the latest
    evaluated(tmp_path, 5, 0.1)
    save(tmp_path, 6, **policy)
    assert steps_in(tmp_path) == [2, 4, 6]


def test_checkpoints_that_are_never_evaluated_do_not_wait(tmp_path, save):
    for step in (2, 3, 4, 5, 6):
        save(tmp_path, step, every=2, keep=1, keep_best={**BEST, "every": 4})
    assert steps_in(tmp_path) == [4, 6]


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": "p0"},
        {"probe": "knn"},
        {"weights": "student"},
    ],
)
def test_other_records_do_not_count(other, tmp_path, save):
    for step in (1, 2, 3):
        save(tmp_path, step, every=1, keep=9)
    evaluated(tmp_path, 1, 1.0, **other)
    for step in (2, 3):
        evaluated(tmp_path, step, 0.1 * step)
    assert step_results(RunDir(tmp_path), BestEvaluated(**BEST)).by_step.keys() == {2, 3}
    prune_checkpoints(tmp_path, CheckpointConfig(every=1, keep=1, keep_best={**BEST, "count": 1}))
    assert steps_in(tmp_path) == [1, 3]  # 1 is to be evaluated


def test_validation_clips_decide_where_every_record_has_them(tmp_path, save):
    for step in (1, 2, 3):
        save(tmp_path, step, every=1, keep=9)
    for step, test, validation in ((1, 0.5, (0.8, 0.1)), (2, 0.9, (0.2, 0.3)), (3, 0.1, (0.1, 0.1))):
        evaluated(tmp_path, step, test, validation)
    policy = CheckpointConfig(every=1, keep=1, keep_best={**BEST, "count": 1})
    prune_checkpoints(tmp_path, policy)
    assert steps_in(tmp_path) == [1, 3]
    evaluated(tmp_path, 3, 0.6)
    results = step_results(RunDir(tmp_path), policy.best_evaluated)
    assert (results.best(1), results.validated, results.text(2)) == ([2], False, "90.0 % test")


@pytest.mark.parametrize(
    ("decides", "validated", "best"),
    [("mean_class_accuracy", True, 2), ("mean_class_accuracy", False, 2), ("accuracy", True, 3), (None, False, 1)],
)
def test_mean_class_accuracy_of_the_test_split_ranks_checkpoints_where_it_decides(
    tmp_path, save, decides, validated, best
):
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    right = {1: [1, 1, 1, 1, 1, 1, 0, 0], 2: [1, 1, 1, 0, 0, 0, 1, 1], 3: [1, 0, 0, 0, 0, 0, 1, 1], 4: [0] * 8}
    validation = {1: 0.2, 2: 0.3, 3: 0.9, 4: 0.1}
    by_class = {
        step: np.mean([np.array(each)[labels == name].mean() for name in (0, 1)]) for step, each in right.items()
    }
    for step, each in right.items():
        save(tmp_path, step, every=1, keep=9)
        own = (validation[step],) if validated else None
        evaluated(tmp_path, step, np.mean(each), own, decides=decides, mean_class_accuracy=by_class[step])
    policy = CheckpointConfig(every=1, keep=1, keep_best={**BEST, "count": 1})
    results = step_results(RunDir(tmp_path), policy.best_evaluated)
    accuracies = validation if validated else {step: np.mean(each) for step, each in right.items()}
    assert results.by_step == pytest.approx(by_class if best == 2 else accuracies)
    assert f"{100 * results.by_step[best]:.1f} %" in results.text(best)
    prune_checkpoints(tmp_path, policy)
    assert steps_in(tmp_path) == [best, 4]


def test_the_newest_record_names_the_metric_that_ranks_checkpoints(tmp_path, save):
    for step in (1, 2):
        save(tmp_path, step, every=1, keep=9)
    best = BestEvaluated(**BEST)
    evaluated(tmp_path, 1, 0.9, decides="mean_class_accuracy", mean_class_accuracy=0.2)
    evaluated(tmp_path, 2, 0.6, mean_class_accuracy=0.5)
    assert step_results(RunDir(tmp_path), best).by_step == {1: 0.9, 2: 0.6}
    evaluated(tmp_path, 2, 0.6, decides="mean_class_accuracy", mean_class_accuracy=0.5)
    assert step_results(RunDir(tmp_path), best).by_step == {1: 0.2, 2: 0.5}
    evaluated(tmp_path, 1, 0.9)  # of an older release: no figure of classes
    assert step_results(RunDir(tmp_path), best).by_step == {1: 0.9, 2: 0.6}


def test_a_damaged_record_waits_and_does_not_stop_the_save(tmp_path, save, caplog):
    for step in (1, 2):
        save(tmp_path, step, every=1, keep=9)
        evaluated(tmp_path, step, 0.5)
    path = RunDir(tmp_path).record_file("own", "standard", step=1)
    path.write_text("{")
    for step in (3, 4):
        save(tmp_path, step, every=1, keep=1, keep_best={**BEST, "count": 1})
    assert steps_in(tmp_path) == [1, 2, 3, 4] and caplog.text.count(str(path)) == 1


def test_a_new_record_removes_what_is_no_longer_among_the_best_unless_the_run_trains(tmp_path, save_run):
    policy = {"every": 1, "keep": 1, "keep_best": {**BEST, "count": 1}}
    run = RunDir(save_run(tmp_path, step=1, checkpoint=policy).folder)
    for step in (2, 3):
        save_run(tmp_path, step=step, checkpoint=policy)
    for step, accuracy in ((1, 0.4), (2, 0.7), (3, 0.6)):
        evaluated(run.path, step, accuracy)
    assert prune_after_evaluation(run, "other", "standard") == []
    with hold_lease(run):
        assert prune_after_evaluation(run, "own", "standard") == []
    assert [path.name for path in prune_after_evaluation(run, "own", "standard")] == ["step-00000001"]

    shown = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["checkpoint", "list", str(run)])
    assert "best: 70.0 % test" in shown.stdout, shown.output
    listed = json.loads(CliRunner().invoke(app, ["checkpoint", "list", str(run), "--json"]).stdout)
    assert [(entry["step"], entry["best"]) for entry in listed] == [(2, "best: 70.0 % test"), (3, "")]
