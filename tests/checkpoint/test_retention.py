"""Retention: every rule of the policy, and the latest valid checkpoint in any case."""

import pytest

from hpc_jepa.checkpoint import layout
from hpc_jepa.checkpoint.layout import CheckpointManifest
from hpc_jepa.checkpoint.retention import prune_checkpoints, retained
from hpc_jepa.config.training import CheckpointConfig
from hpc_jepa.runs.run_dir import RunDir

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
