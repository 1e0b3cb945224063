"""Clusters in an evaluation: from the shards to the record, and in the split for model selection."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation import record
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.evaluation.probes.fit import hold_out_clusters, split_validation
from hpc_jepa.evaluation.stats.accuracy import accuracy
from hpc_jepa.runs.run_dir import RunDir


def on(benchmark, shards, **changes):
    update = {"train": shards / "train", "test": shards / "test", **changes}
    standard = benchmark.protocols["standard"].model_copy(update=update)
    return benchmark.model_copy(update={"protocols": {"standard": standard}})


def evaluated(run_folder, benchmark, task="probe"):
    found = evaluate(run_folder, benchmark, "standard", ["target"], task=task)
    path = RunDir(run_folder).record_file("tiny8", "standard", task)
    return json.loads(path.read_text()), record.read_predictions(path, found)


def test_a_record_has_the_clusters_of_its_shards(run_folder, benchmark, cut_shards):
    content, predictions = evaluated(run_folder, on(benchmark, cut_shards / "True"))
    for result in content["results"]:
        right = predictions[f"target.{result['probe']}"] == predictions["labels"]
        expected = accuracy(right, predictions["clusters"])
        assert (result["value"], result["low"], result["high"]) == (expected.value, expected.low, expected.high)
    shards = ShardFolder(cut_shards / "True" / "test")
    names = [shards.info(index).cluster for index in predictions["samples"].tolist()]
    assert content["clusters"] == len(set(names)) == 8
    for first in range(16):
        same = predictions["clusters"] == predictions["clusters"][first]
        assert same.tolist() == [name == names[first] for name in names]


@pytest.mark.parametrize("task", ["few_shot", "robustness"])
def test_other_tasks_have_them_too(task, run_folder, benchmark, cut_shards):
    protocol = benchmark.protocols["standard"]
    few = protocol.few_shot.model_copy(
        update={"shots": (1,), "draws": 2, "episodes": 2, "ways": 2, "episode_shots": (1,), "queries": 1}
    )
    robustness = protocol.robustness.model_copy(update={"corruptions": ("noise",), "probes": ("linear",), "clips": 8})
    changed = on(benchmark, cut_shards / "True", few_shot=few, robustness=robustness)
    content, predictions = evaluated(run_folder, changed, task)
    assert content["clusters"] == len(np.unique(predictions["clusters"])) > 1
    assert len(predictions["clusters"]) == len(predictions["samples"])


def test_without_clusters_record_and_predictions_are_as_before(run_folder, benchmark, cut_shards):
    content, predictions = evaluated(run_folder, on(benchmark, cut_shards / "False"))
    assert "clusters" not in content
    assert list(predictions) == ["labels", "samples", "target.linear", "target.attentive"]


def test_rendered_clips_are_independent_also_in_older_shards(run_folder, benchmark, shards, tmp_path):
    content, predictions = evaluated(run_folder, benchmark)
    assert content["clusters"] == 16
    for result in content["results"]:
        right = predictions[f"target.{result['probe']}"] == predictions["labels"]
        assert (result["low"], result["high"]) == (accuracy(right).low, accuracy(right).high)
    np.testing.assert_array_equal(predictions["clusters"], np.arange(16))
    manifest = json.loads((shards / "test" / "manifest.json").read_text())
    assert manifest.pop("clusters") == "independent"
    old = tmp_path / "old"
    old.mkdir()
    for path in (shards / "test").iterdir():
        (old / path.name).symlink_to(path)
    (old / "manifest.json").unlink()
    (old / "manifest.json").write_text(json.dumps(manifest))
    assert ShardFolder(old).manifest.known_clusters == "independent"


def test_the_same_clips_give_the_same_predictions_with_and_without_clusters(run_folder, benchmark, cut_shards):
    """Without a validation split clusters are recorded only."""
    _, known = evaluated(run_folder, on(benchmark, cut_shards / "True"))
    _, unknown = evaluated(run_folder, on(benchmark, cut_shards / "False"))
    for name in ("samples", "target.linear", "target.attentive"):
        np.testing.assert_array_equal(known[name], unknown[name])


def test_a_sample_without_the_promised_cluster_is_an_error(run_folder, benchmark, cut_shards, tmp_path):
    broken = tmp_path / "broken"
    for split in ("train", "test"):
        (broken / split).mkdir(parents=True)
        for path in (cut_shards / "False" / split).iterdir():
            (broken / split / path.name).write_bytes(path.read_bytes())
        path = broken / split / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"clusters": "known"}))
    with pytest.raises(DataError, match=r"broken/train.*cluster"):
        evaluated(run_folder, on(benchmark, broken))


def test_videos_in_both_splits_are_warned_of_once(run_folder, benchmark, cut_shards, caplog):
    """Test clips 48 to 63 continue the numbers of the training clips: their videos are others."""
    evaluated(run_folder, on(benchmark, cut_shards / "True"))
    assert not caplog.records
    changed = on(benchmark, cut_shards / "True", test=cut_shards / "shifted" / "test")
    evaluated(run_folder, changed)
    (warning,) = [message for message in caplog.messages if "source videos" in message]
    assert "shifted/test: 8 source videos" in warning


def test_validation_clips_are_of_other_videos_than_training_clips(make_features):
    features = make_features(0, clips=240)
    clusters = np.arange(240) % 4 + 4 * (np.arange(240) // 24)  # 10 videos of each class, 6 clips each
    train, validation = split_validation(replace(features, clusters=clusters), 0.2)
    assert not set(train.clusters) & set(validation.clusters)
    assert len(train) == 192 and np.bincount(validation.labels).tolist() == [12] * 4
    again, _ = split_validation(replace(features, clusters=clusters), 0.2)
    np.testing.assert_array_equal(train.samples, again.samples)


@pytest.mark.parametrize("clusters", [None, np.arange(100)])
def test_without_shared_videos_the_split_is_the_one_by_clip(make_features, clusters):
    features = make_features(0, clips=100)
    expected, _ = train_test_split(np.arange(100), test_size=0.2, random_state=0, stratify=features.labels)
    train, _ = split_validation(replace(features, clusters=clusters), 0.2)
    np.testing.assert_array_equal(train.samples, np.sort(expected))


def test_several_clips_of_a_sample_stay_with_their_video(make_features):
    features = replace(make_features(0, clips=96), clips=2, labels=np.tile(np.arange(48) % 4, 2))
    features = replace(features, samples=np.tile(np.arange(48), 2), clusters=np.tile(np.arange(48) // 8, 2))
    train, validation = split_validation(features, 0.2)
    assert not set(train.clusters) & set(validation.clusters)
    assert len(train) + len(validation) == 96 and train.clips == validation.clips == 2


def test_no_class_loses_all_its_training_clips():
    """Videos of unequal length, with several classes, and a class of one video."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        clusters = rng.integers(0, 12, 200)
        labels = np.where(clusters == 3, 4, rng.integers(0, 4, 200))
        held_out = hold_out_clusters(labels, clusters, 0.1)
        assert set(labels[~held_out]) == set(range(5))
        assert not set(clusters[held_out]) & set(clusters[~held_out])
        assert 0 < held_out.mean() < 0.3


def test_a_video_longer_than_the_fraction_stays_in_training():
    clusters = np.r_[np.zeros(90, int), 1 + np.arange(10) // 2]
    held_out = hold_out_clusters(np.zeros(100, int), clusters, 0.05)
    assert 1 <= held_out.sum() <= 5 and not held_out[:90].any()


def test_one_video_of_each_class_cannot_be_held_out():
    labels = np.arange(40) % 4
    with pytest.raises(DataError, match="validation"):
        hold_out_clusters(labels, labels, 0.2)
