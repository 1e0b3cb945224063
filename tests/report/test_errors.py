"""Reports of a numeric target: errors in its unit, of which lower is better."""

import csv
import json

import numpy as np
import pytest
import yaml
from simulated_records import record_facts

from hpc_jepa.config import loading
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.record import ProbeRecord, error_fields, write_record
from hpc_jepa.report.write_report import write_report
from hpc_jepa.runs.run_dir import RunDir

CLIPS = 400
TARGETS = 50 + 3 * np.random.default_rng(0).normal(size=CLIPS)
CLUSTERS = np.arange(CLIPS) // 4


def write_errors(run, spread, seed, unit=1.0, step=None, **facts):
    config = loading.read_config(RunConfig, [run / "config.yaml"])
    rng = np.random.default_rng([seed, round(100 * spread)])
    targets = unit * TARGETS
    answers = {
        "target": targets + unit * spread * rng.normal(size=(1, CLIPS)),
        "random_init": np.full((1, CLIPS), targets.mean()) + unit * rng.normal(size=(1, CLIPS)),
    }
    predictions = {"labels": targets, "samples": np.arange(CLIPS), "clusters": CLUSTERS}
    results = []
    for weights, predicted in answers.items():
        predictions[f"{weights}.ridge"] = predicted
        names = {"weights": weights, "probe": "ridge", "pooling": "mean", "probe_seeds": ()}
        results.append({**names, **error_fields(predicted, targets, CLUSTERS)})
    common = record_facts(config, "fraction", "standard", step)
    fields = {**common, "classes": 0, "target": {"key": "ef", "unit": "mm"}, "results": tuple(results), **facts}
    path = RunDir(run).record_file("fraction", "standard", "probe", step)
    write_record(ProbeRecord, path, fields, predictions)
    return path


@pytest.fixture
def errors(write):
    """Three seeds of a baseline and of a variant whose errors are smaller."""

    def make(spreads=(2.0, 1.5), unit=1.0, **facts):
        for variant, spread in zip(("baseline", "fwm"), spreads, strict=True):
            for seed in (0, 1, 2):
                write_errors(write.run(variant, seed=seed), spread, seed, unit, **facts)
        return write.root / "demo"

    return make


def read_csv(folder, name):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def the_cell(folder, variant="fwm"):
    (row,) = (row for row in read_csv(folder, "grid") if row["variant"] == variant)
    return row


@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e4])
def test_a_smaller_error_is_a_gain_with_a_negative_difference(errors, unit):
    folder = write_report([errors(unit=unit)]).folder
    cell = the_cell(folder)
    assert (cell["metric"], cell["unit"], cell["better"], cell["clusters"]) == ("mae", "mm", "lower", "100")
    expected = np.sqrt(2 / np.pi)
    assert float(cell["value"]) / unit == pytest.approx(1.5 * expected, rel=0.05)
    assert float(cell["difference"]) / unit == pytest.approx(-0.5 * expected, rel=0.15)
    assert float(cell["difference_high"]) < 0 and cell["significant"] == "True"
    content = json.loads((folder / "report.json").read_text())
    (line,) = (line for line in content["findings"] if "Holm" in line)
    assert "1 is a gain (fwm" in line and "0 are losses" in line
    (line,) = (line for line in content["findings"] if "random_init" in line)
    assert "6 of 6 pretrained encoders beat random_init" in line and "fwm" in line.split("Best")[1]
    page = (folder / "index.html").read_text()
    assert 'class="change up"' in page and "lower is better" in page


def test_a_larger_error_is_a_loss(errors):
    folder = write_report([errors(spreads=(1.5, 2.0))]).folder
    assert float(the_cell(folder)["difference"]) > 0
    assert 'class="change down"' in (folder / "index.html").read_text()
    assert "1 is a loss (fwm" in (folder / "results.txt").read_text()


def test_results_have_errors_and_explained_variance_in_the_unit_of_the_target(errors):
    folder = write_report([errors()]).folder
    (row,) = (r for r in read_csv(folder, "results") if (r["variant"], r["seed"]) == ("fwm", "1"))
    assert (row["metric"], row["target"], row["unit"], row["classes"]) == ("mae", "ef", "mm", "0")
    path = RunDir(folder.parent / "quickstart/fwm/seed-1").record_file("fraction", "standard")
    result = json.loads(path.read_text())["results"][0]
    for name in ("value", "low", "high", "r2", "r2_low", "r2_high", "constant"):
        assert float(row[name]) == pytest.approx(result[name], rel=1e-5)
    assert not any(row[name] for name in ("mean_class_accuracy", "macro_f1", "predicted_classes", "majority"))
    for name in ("results.txt", "index.html", "tables.md"):
        assert "mean absolute error of ef, mm" in (folder / name).read_text()
    assert f"R² {result['r2']:.3f}" in (folder / "index.html").read_text()


@pytest.mark.parametrize("where", ["records", "study"])
def test_explained_variance_can_decide(errors, where):
    root = errors(**({"decides": "r2"} if where == "records" else {}))
    if where == "study":
        study = {"study": "demo", "regimes": ["quickstart"], "variants": ["baseline", "fwm"], "seeds": [0, 1, 2]}
        study["evaluations"] = [{"benchmark": "fraction", "decides": "r2"}]
        (root / "study.yaml").write_text(yaml.safe_dump(study))
    cell = the_cell(write_report([root]).folder)
    assert (cell["metric"], cell["unit"], cell["better"]) == ("r2", "", "higher")
    assert float(cell["value"]) == pytest.approx(1 - 1.5**2 / 9, abs=0.06)
    assert float(cell["difference"]) == pytest.approx((2**2 - 1.5**2) / 9, abs=0.06) and cell["significant"] == "True"


def test_a_metric_of_classes_does_not_decide_on_a_number(errors):
    root = errors()
    study = {"study": "demo", "regimes": ["quickstart"], "variants": ["baseline", "fwm"], "seeds": [0, 1, 2]}
    study["evaluations"] = [{"benchmark": "fraction", "decides": "mean_class_accuracy"}]
    (root / "study.yaml").write_text(yaml.safe_dump(study))
    assert the_cell(write_report([root]).folder)["metric"] == "mae"


def test_the_best_checkpoint_has_the_smallest_error(errors):
    root = errors()
    run = root / "quickstart/fwm/seed-0"
    write_errors(run, 3.0, 0, step=100)
    write_errors(run, 1.0, 0, step=200)
    folder = write_report([root]).folder
    assert "step 200 of 3 checkpoints" in (folder / "results.txt").read_text()
    steps = read_csv(folder, "over_steps")
    assert [row["steps"] for row in steps] == ["100", "200", "500"]


def test_records_of_different_targets_are_not_compared(errors):
    root = errors()
    write_errors(root / "quickstart/fwm/seed-0", 1.5, 0, target={"key": "volume", "unit": "ml"})
    with pytest.raises(InputError, match="different target"):
        write_report([root])


def test_a_value_that_its_predictions_contradict_is_damaged(errors):
    root = errors()
    path = RunDir(root / "quickstart/fwm/seed-0").record_file("fraction", "standard")
    content = json.loads(path.read_text())
    content["results"][0]["value"] *= 1.01
    path.write_text(json.dumps(content))
    folder = write_report([root]).folder
    assert "damaged, left out" in (folder / "results.txt").read_text()
    assert the_cell(folder)["seeds"] == "2"
