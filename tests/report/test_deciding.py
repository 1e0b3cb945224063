"""Metrics beside accuracy, and the one that decides."""

import csv
import json

import numpy as np
import pytest
import yaml
from sklearn.metrics import balanced_accuracy_score, f1_score

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.record import ProbeRecord, accuracy_fields, read_predictions, read_record, write_record
from hpc_jepa.report.write_report import write_report

CLIPS = 1000
LABELS = np.repeat(np.arange(8), [860, 20, 20, 20, 20, 20, 20, 20])


def read_csv(folder, name):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def unbalanced(write):
    """Two seeds of a baseline that predicts the majority more often, and a variant that knows the small classes."""

    def make(decides=None):
        write.labels = LABELS
        for variant, shares in (("baseline", (0.99, 0.3)), ("fwm", (0.85, 0.7))):
            for seed in (0, 1, 2):
                run = write.run(variant, seed=seed)
                path = write.evaluated(run, {"target": {"linear": 0.5}})
                answer(path, shares, seed, decides)
        return write.root / "demo"

    return make


def answer(path, shares, seed, decides):
    """Replace the answers of a record: a clip of the first class is right with the first probability."""
    record, predictions = read_record(ProbeRecord, path), read_predictions(path, read_record(ProbeRecord, path))
    rng = np.random.default_rng([seed, round(100 * shares[0])])
    right = rng.random(CLIPS) < np.where(LABELS == 0, *shares)
    predictions["target.linear"] = np.where(right, LABELS, 0)[None]
    predictions["target.linear"][0][~right & (LABELS == 0)] = 1
    (result,) = record.results
    correct = predictions["target.linear"] == LABELS
    results = (result.model_copy(update=accuracy_fields(correct)),)
    fields = {**record.model_dump(), "results": results, "decides": decides}
    write_record(ProbeRecord, path, fields, predictions)


def test_results_have_the_metrics_of_records_without_them(unbalanced):
    folder = write_report([unbalanced()]).folder
    (row,) = (r for r in read_csv(folder, "results") if (r["variant"], r["seed"]) == ("fwm", "1"))
    run = folder.parent / "quickstart/fwm/seed-1"
    (path,) = (run / "eval").glob("*.json")
    predicted = read_predictions(path, read_record(ProbeRecord, path))["target.linear"][0]
    assert float(row["mean_class_accuracy"]) == pytest.approx(
        100 * balanced_accuracy_score(LABELS, predicted), abs=0.01
    )
    assert float(row["macro_f1"]) == pytest.approx(100 * f1_score(LABELS, predicted, average="macro"), abs=0.01)
    assert (row["predicted_classes"], row["majority"], row["classes"]) == ("8", "86.0", "8")
    content = json.loads((folder / "report.json").read_text())
    assert {"mean_class_accuracy", "macro_f1", "predicted_classes", "majority"} <= content["results"][0].keys()
    page = (folder / "index.html").read_text()
    shown = f"{float(row['mean_class_accuracy']):.1f} / {float(row['macro_f1']):.1f} / 8 of 8"
    assert shown in page and shown in (folder / "results.txt").read_text()


def test_balanced_classes_are_shown_by_accuracy_alone(study):
    folder = write_report([study]).folder
    assert "by class" not in (folder / "index.html").read_text() + (folder / "results.txt").read_text()
    assert all(row["mean_class_accuracy"] for row in read_csv(folder, "results"))


def the_cell(folder):
    (row,) = (r for r in read_csv(folder, "grid") if r["variant"] == "fwm")
    return row


@pytest.mark.parametrize("where", ["records", "study"])
def test_the_deciding_metric_turns_a_loss_into_a_gain(unbalanced, where):
    folder = write_report([unbalanced()]).folder
    by_accuracy = the_cell(folder)
    assert by_accuracy["metric"] == "accuracy"
    assert float(by_accuracy["difference"]) < 0 and by_accuracy["significant"] == "True"
    if where == "study":
        study = {"study": "demo", "regimes": ["quickstart"], "variants": ["baseline", "fwm"], "seeds": [0, 1, 2]}
        study["evaluations"] = [{"benchmark": "motion8", "decides": "mean_class_accuracy"}]
        (folder.parent / "study.yaml").write_text(yaml.safe_dump(study))
    else:
        for path in folder.parent.glob("quickstart/*/*/eval/*.json"):
            content = json.loads(path.read_text())
            path.write_text(json.dumps({**content, "decides": "mean_class_accuracy"}))
    folder = write_report([folder.parent]).folder
    by_class = the_cell(folder)
    assert by_class["metric"] == "mean_class_accuracy"
    assert float(by_class["difference"]) > 20 and by_class["significant"] == "True"
    means = [float(r["mean_class_accuracy"]) for r in read_csv(folder, "results") if r["variant"] == "fwm"]
    assert float(by_class["value"]) == pytest.approx(np.mean(means), abs=0.02)
    assert "mean class accuracy" in (folder / "index.html").read_text()


def test_records_that_name_different_metrics_are_refused(unbalanced):
    root = unbalanced("mean_class_accuracy")
    (path, *_) = sorted(root.glob("quickstart/*/*/eval/*.json"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "decides": "accuracy"}))
    with pytest.raises(InputError, match=f"{path.name}.*decides"):
        write_report([root])


@pytest.mark.parametrize("decides", [None, {"probe": "near"}, {"probe": "absent"}])
def test_the_probe_that_the_study_names_decides_and_the_first_one_is_shown_beside_it(write, decides):
    for variant, shares in (("baseline", {"linear": 0.5, "near": 0.5}), ("fwm", {"linear": 0.5, "near": 0.9})):
        for seed in (0, 1, 2):
            write.evaluated(write.run(variant, seed=seed), {"target": shares})
    study = {"study": "demo", "regimes": ["quickstart"], "variants": ["baseline", "fwm"], "seeds": [0, 1, 2]}
    study["evaluations"] = [{"benchmark": "motion8", **({"decides": decides} if decides else {})}]
    (write.root / "demo" / "study.yaml").write_text(yaml.safe_dump(study))
    rows = [r for r in read_csv(write_report([write.root / "demo"]).folder, "grid") if r["variant"] == "fwm"]
    significant = {r["benchmark"].split(", ")[-1]: r["significant"] == "True" for r in rows}
    expected = {"near": True, "linear": False} if decides == {"probe": "near"} else {"linear": False}
    assert significant == expected
