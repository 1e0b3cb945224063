"""Metrics beside accuracy, and the one that decides."""

import csv
import json

import numpy as np
import pytest
import yaml
from simulated_records import write_few_shot, write_robustness, write_text
from sklearn.metrics import balanced_accuracy_score, f1_score

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.record import ProbeRecord, accuracy_fields, read_predictions, read_record, write_record
from hpc_jepa.report.report_data import collect_run_data
from hpc_jepa.report.run_report import find_runs
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


SEEDS = (0, 1, 2)
SHARES = {"baseline": (0.99, 0.3), "fwm": (0.85, 0.7)}
SEVERITIES = {"noise": 2, "blur": 1}
COLUMNS = {
    "few_shot": ("5 shots", ["target.shots-5"], [1.0]),
    "robustness": (
        "mean over corruptions",
        ["target.linear.noise.1", "target.linear.noise.2", "target.linear.blur.1"],
        [0.25, 0.25, 0.5],
    ),
}
"""Of each task: the condition that is judged, the predictions that it is of, and the weight of each."""


def write_task(run, task, seed, shares, decides=None):
    """A record in which a clip of the first class is right with the first probability, others with the second."""
    config, rng = read_config(RunConfig, [run / "config.yaml"]), np.random.default_rng([seed, round(100 * shares[0])])

    def right(rows):
        return rng.random((rows, CLIPS)) < np.where(LABELS == 0, *shares)

    if task == "few_shot":
        draws, episodes = {("target", 5): right(4)}, {("target", 5, 1): rng.binomial(75, shares[1], 50)}
        return write_few_shot(config, "motion8", "standard", draws, episodes, labels=LABELS, decides=decides)
    if task == "text":
        ranks = {("target", "video_to_text", 0.0): np.where(right(2), 0, 7)}
        return write_text(config, "motion8", "standard", ranks, labels=LABELS, decides=decides)
    cases = [("clean", 0), *((name, level + 1) for name, count in SEVERITIES.items() for level in range(count))]
    answers = {("target", "linear", *case): right(2) for case in cases}
    return write_robustness(config, "motion8", "standard", answers, labels=LABELS, decides=decides)


def by_class(folder, task, variant):
    """Mean over seeds, conditions and rows of scikit-learn's balanced accuracy, in percent."""
    _, keys, weights = COLUMNS[task]
    found = []
    for seed in SEEDS:
        with np.load(folder / f"quickstart/{variant}/seed-{seed}/eval/{task}/motion8.standard.npz") as arrays:
            rows = [[balanced_accuracy_score(arrays["labels"], row) for row in arrays[key]] for key in keys]
        found.append(np.dot(weights, np.mean(rows, axis=1)))
    return 100 * np.mean(found)


def judged(folder, task):
    """Row of ``fwm`` in the column of a task that is judged."""
    rows = [row for row in read_csv(folder, "grid") if (row["variant"], row["task"]) == ("fwm", task)]
    return next(row for row in rows if row["condition"] == COLUMNS[task][0])


@pytest.fixture
def tasks_alone(write):
    """``tasks_alone(task, decides=None)``: a study without probes whose metrics name different winners."""

    def make(task, decides=None):
        for variant, shares in SHARES.items():
            for seed in SEEDS:
                write_task(write.run(variant, seed=seed), task, seed, shares, decides)
        return write.root / "demo"

    return make


@pytest.mark.parametrize("where", ["records", "study"])
@pytest.mark.parametrize("task", ["few_shot", "robustness"])
def test_the_deciding_metric_turns_the_loss_of_a_task_into_a_gain(tasks_alone, task, where):
    root = tasks_alone(task)
    before = judged(write_report([root]).folder, task)
    assert before["metric"] == "accuracy"
    assert float(before["difference"]) < 0 and before["significant"] == "True"
    if where == "study":
        entry = {"benchmark": "motion8", "task": task, "decides": "mean_class_accuracy"}
        study = {"study": "demo", "regimes": ["quickstart"], "variants": [*SHARES], "seeds": [*SEEDS]}
        (root / "study.yaml").write_text(yaml.safe_dump({**study, "evaluations": [entry]}))
    else:
        tasks_alone(task, "mean_class_accuracy")
    folder = write_report([root]).folder
    after = judged(folder, task)
    ours, theirs = (by_class(root, task, variant) for variant in ("fwm", "baseline"))
    assert after["metric"] == "mean_class_accuracy" and after["significant"] == "True"
    assert ours - theirs > 20 and float(after["value"]) == pytest.approx(ours, abs=0.006)
    assert float(after["difference"]) == pytest.approx(ours - theirs, abs=0.006)


def test_episodes_and_retrieval_have_no_classes_and_keep_their_metric(tasks_alone):
    own = ("value", "low", "high", "difference", "difference_low", "difference_high", "p")

    def episodes(decides):
        rows = read_csv(write_report([tasks_alone("few_shot", decides)]).folder, "grid")
        return [[row[name] for name in own] for row in rows if "episodes" in row["condition"]]

    by_accuracy = episodes(None)
    assert len(by_accuracy) == len(SHARES) and episodes("mean_class_accuracy") == by_accuracy
    rows = read_csv(write_report([tasks_alone("text", "mean_class_accuracy")]).folder, "grid")
    assert {row["metric"] for row in rows if row["task"] == "text"} == {"R@1", "R@5", "R@10"}


def test_an_answer_names_the_metric_that_decides_and_its_sign(tasks_alone):
    root = tasks_alone("robustness", "mean_class_accuracy")
    contrast = {"groups": {"with": ["fwm"], "without": ["baseline"]}}
    about = {"question": "Why?", "outcome": {"task": "robustness"}, "contrast": contrast}
    entry = {"benchmark": "motion8", "task": "robustness"}
    study = {"study": "demo", "regimes": ["quickstart"], "variants": [*SHARES], "seeds": [*SEEDS], "about": about}
    (root / "study.yaml").write_text(yaml.safe_dump({**study, "evaluations": [entry]}))
    data = collect_run_data(find_runs([root]), [root])
    first, found = data.answer_sentences[0], data.answers[0].contrasts[0].contrast
    expected = by_class(root, "robustness", "fwm") - by_class(root, "robustness", "baseline")
    assert found.points == pytest.approx(expected) and found.significant
    assert first.count("mean class accuracy") == 1 and "mean mean" not in first


def test_records_of_tasks_that_name_different_metrics_are_refused(tasks_alone):
    root = tasks_alone("few_shot", "mean_class_accuracy")
    path = write_task(root / "quickstart/fwm/seed-1", "robustness", 1, SHARES["fwm"], "accuracy")
    with pytest.raises(InputError, match="decides") as error:
        write_report([root])
    assert f"{path.parent.name}/{path.name}" in str(error.value) and "few_shot" in str(error.value)
