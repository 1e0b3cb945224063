"""A numeric target from the table to the report."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import mean_absolute_error, r2_score
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.cli.shards import app as shards_app
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation import record
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.runs.run_dir import RunDir

SAMPLES = {"train": 40, "test": 24}


def write_table(folder, level=lambda number: f"{3 * number + 0.5}", columns="file,split,cluster,Level"):
    """Grey images of increasing brightness, two of each patient."""
    rng, lines = np.random.default_rng(0), [columns]
    (folder / "images").mkdir()
    for split, count in SAMPLES.items():
        for number in range(count):
            grey = np.clip(20 + 5 * number + rng.normal(0, 8, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(grey).save(folder / "images" / f"{split}{number}.png")
            lines.append(f"{split}{number}.png,{split},{split}-p{number // 2},{level(number)}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")


def build(folder, *options):
    words = ["--videos", folder / "images", "--annotations", folder / "table.csv", "--out", folder / "shards"]
    result = CliRunner().invoke(
        shards_app, ["build", "csv", *map(str, words), "--workers", "1", *options], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return folder / "shards"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    write_table(folder)
    return build(folder, "--target", "LEVEL")


def benchmark_of(shards, **changes):
    protocol = {
        "train": shards / "train",
        "test": shards / "test",
        "clip": {"frames": 4, "size": 32},
        "probes": {
            "ridge": {"kind": "ridge", "l2": [1e-3, 1.0]},
            "attentive": {"kind": "attentive", "pooling": "tokens", "heads": 4, "updates": 20, "lr": 1e-2},
        },
        "probe_seeds": [0, 1],
        "validation": 0.25,
    }
    values = {"name": "level", "title": "Level", "target": {"key": "Level", "unit": "mm"}}
    return BenchmarkConfig.model_validate({**values, "protocols": {"standard": protocol}, **changes})


def test_the_number_of_a_row_is_in_its_sample(shards):
    folder = ShardFolder(shards / "test")
    found = {folder.key(index): folder.info(index).targets for index in range(len(folder))}
    assert found == {f"test{number}": {"level": 3 * number + 0.5} for number in range(24)}


def test_a_record_has_the_errors_of_its_predictions(shards, run_folder):
    benchmark = benchmark_of(shards)
    found = evaluate(run_folder, benchmark, "standard", ["target", "random_init"])
    path = RunDir(run_folder).record_file("level", "standard")
    predictions = record.read_predictions(path, found)
    targets = predictions["labels"]
    np.testing.assert_allclose(np.sort(targets), 3 * np.arange(24) + 0.5)
    assert (found.classes, found.target.key, found.target.unit, found.clusters) == (0, "level", "mm", 12)
    for result in found.results:
        rows = predictions[result.key]
        assert rows.shape == (1 if result.probe == "ridge" else 2, 24) and result.metric == "mae"
        assert result.value == pytest.approx(np.mean([mean_absolute_error(targets, row) for row in rows]))
        assert result.r2 == pytest.approx(np.mean([r2_score(targets, row) for row in rows]))
        assert result.low < result.value < result.high and result.r2_low < result.r2 < result.r2_high
        assert result.constant == pytest.approx(18)
    ridge = next(r for r in found.results if (r.weights, r.probe) == ("target", "ridge"))
    assert ridge.r2 > 0.8 and len(ridge.candidates) == 2
    again = evaluate(run_folder, benchmark_of(shards, target={"key": "level", "unit": "cm"}), "standard", ["target"])
    assert again.target.unit == "cm" and again.results == found.results
    shown = CliRunner().invoke(app, ["report", str(run_folder), "--out", str(run_folder / "report")])
    assert shown.exit_code == 0 and "mean absolute error of level, cm (lower is better)" in shown.output


@pytest.mark.parametrize(
    ("level", "problem"),
    [
        ("n/a", "'n/a'"),
        ("nan", "'nan'"),
        ("inf", "'inf'"),
        ("", "empty"),
        ("1,5", "columns"),
        ("0x10", "'0x10'"),
        ("1_0", "'1_0'"),
    ],
)
def test_a_cell_without_a_number_is_refused_with_its_line(tmp_path, level, problem):
    write_table(tmp_path, lambda number: level if number == 3 else str(number))
    with pytest.raises(InputError, match=rf"table\.csv:5: .*{problem}"):
        build(tmp_path, "--target", "level")
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("name", ["label", "cluster", "volume", ""])
def test_a_target_is_a_further_column_of_the_table(tmp_path, name):
    write_table(tmp_path)
    with pytest.raises(InputError, match="--target"):
        build(tmp_path, "--target", name)


def test_a_column_of_numbers_has_to_be_named(tmp_path):
    write_table(tmp_path)
    with pytest.raises(InputError, match=r"table\.csv:1: .*'level'.*--target"):
        build(tmp_path)


def test_samples_without_the_number_are_named(shards, run_folder):
    benchmark = benchmark_of(shards, target={"key": "volume"})
    with pytest.raises(DataError, match=r"train: sample train\d+ has no number 'volume'; it has level"):
        evaluate(run_folder, benchmark, "standard", ["target"])


def test_a_number_that_never_changes_is_refused(tmp_path, run_folder):
    write_table(tmp_path, lambda number: "7")
    with pytest.raises(DataError, match="'level' is 7 in all 40 samples"):
        evaluate(run_folder, benchmark_of(build(tmp_path, "--target", "level")), "standard", ["target"])


@pytest.mark.parametrize("task", ["few_shot", "robustness", "text"])
def test_other_tasks_need_classes(shards, run_folder, task):
    with pytest.raises(InputError, match=task):
        evaluate(run_folder, benchmark_of(shards), "standard", ["target"], task=task)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"classes": 4}, "classes"),
        ({"target": None}, "classes"),
        ({"target": None, "classes": 1}, "classes"),
        ({"target": None, "classes": 4}, "ridge"),
        ({"decides": "mean_class_accuracy"}, "mae or r2"),
        ({"target": {"key": " "}}, "key"),
        ({"target": {"column": "level"}}, "column"),
    ],
)
def test_a_benchmark_has_classes_or_a_number(shards, changes, key):
    with pytest.raises(ValueError, match=key):
        benchmark_of(shards, **changes)


@pytest.mark.parametrize("kind", ["knn", "logistic"])
def test_probes_of_classes_are_refused(shards, kind):
    values = benchmark_of(shards).model_dump()
    values["protocols"]["standard"]["probes"]["own"] = {"kind": kind}
    with pytest.raises(ValueError, match=f"{kind} predicts classes"):
        BenchmarkConfig.model_validate(values)
