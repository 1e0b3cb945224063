"""Few-shot, robustness and text records in the tables of a report, recomputed from the records by numpy and scipy."""

import csv
import json

import numpy as np
import pytest
from scipy import stats
from simulated_records import write_few_shot, write_robustness, write_text

from hpc_jepa.config import loading
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.report.predictions import check_comparable
from hpc_jepa.report.report_data import collect_run_data
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.report.write_report import write_report

CLIPS, DRAWS, EPISODES, SEEDS = 240, 6, 200, (0, 1, 2)
VIDEOS = np.arange(CLIPS) // 3
GAIN = {"baseline": 0.0, "ld": 0.0, "fwm": 0.2}
CORRUPTIONS = {"noise": 3, "blur": 2, "reversal": 1}
DROPOUTS = (0.0, 0.5)


def answers(chance: float, rng: np.random.Generator, rows: int = 1) -> np.ndarray:
    """[rows, CLIPS]: right answers, of which half are the same in all runs."""
    shared = np.random.default_rng(5).random(CLIPS)
    own = rng.random((rows, CLIPS))
    return np.where(np.random.default_rng(6).random(CLIPS) < 0.5, shared, own) < chance


def write_tasks(run, variant: str, seed: int, gains=None) -> None:
    """Records of all tasks; a variant gains the same in each."""
    config = loading.read_config(RunConfig, [run / "config.yaml"])
    rng = np.random.default_rng([seed, *variant.encode()])
    gain = (gains or GAIN)[variant] + rng.normal(0, 0.01)
    draw = np.random.default_rng(9).normal(0, 0.02, DRAWS) + rng.normal(0, 0.01, DRAWS)
    draws = {
        ("target", shots): np.concatenate([answers(0.3 + shots / 50 + gain + luck, rng) for luck in draw])
        for shots in (1, 5)
    }
    hard = np.random.default_rng(8).normal(0, 0.05, EPISODES)
    episodes = {("target", 5, 1): rng.binomial(75, np.clip(0.4 + gain + hard, 0, 1))}
    write_few_shot(config, "motion8", "standard", draws, episodes, clusters=VIDEOS)
    cases = [("clean", 0), *((name, level + 1) for name, count in CORRUPTIONS.items() for level in range(count))]
    right = {("target", "linear", *case): answers(0.6 + gain - 0.08 * case[1], rng, 3) for case in cases}
    write_robustness(config, "motion8", "standard", right, clusters=VIDEOS)
    ranks = {
        ("target", direction, dropout): np.where(
            answers(0.5 + gain - dropout / 4, rng, 2), 0, rng.integers(1, 20, (2, CLIPS))
        )
        for direction in ("video_to_text", "text_to_video")
        for dropout in DROPOUTS
    }
    named = {("target", "class_names", dropout): answers(0.5 + gain, rng, 2) for dropout in DROPOUTS}
    write_text(config, "motion8", "standard", {**ranks, **named}, clusters=VIDEOS)


def write_study(write):
    """A study without probes: one variant gains 20 points in all tasks, one nothing."""
    for variant in GAIN:
        for seed in SEEDS:
            write_tasks(write.run(variant, seed=seed), variant, seed)
    return write.root / "demo"


@pytest.fixture
def tasks(write):
    return write_study(write)


@pytest.fixture(scope="module")
def reported(writer, tmp_path_factory):
    """The folder of a study, and its report."""
    study = write_study(writer(tmp_path_factory.mktemp("tasks") / "runs"))
    return study, write_report([study])


def collect(study):
    found = find_runs([study])
    check_comparable(found.runs)
    return collect_run_data(found, [study])


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predictions(study, task: str, variant: str, seed: int) -> dict[str, np.ndarray]:
    with np.load(study / f"quickstart/{variant}/seed-{seed}/eval/{task}/motion8.standard.npz") as arrays:
        return dict(arrays)


def moved(study, task: str, score, variant: str) -> np.ndarray:
    """[S, n]: scores of a variant minus those of the baseline."""
    return np.stack(
        [score(predictions(study, task, variant, s)) - score(predictions(study, task, "baseline", s)) for s in SEEDS]
    )


def paired_interval(difference: np.ndarray, clusters: np.ndarray, draws: np.ndarray | None = None):
    """Mean of ``difference`` [S, n], with the variance of the blocked design for two comparisons, and of ``draws``
    [S, D, n]; by plain loops.
    """
    seeds, n = difference.shape
    groups = np.unique(clusters)
    of = lambda scores: np.array([scores[clusters == g].sum() for g in groups])  # noqa: E731
    sizes = of(np.ones(n))
    value, by_seed = difference.mean(), difference.mean(axis=1)
    count = len(groups)

    def spread(scores: np.ndarray) -> float:
        """Variance of a mean over clips, [n]."""
        return float(np.sum((of(scores) - scores.mean() * sizes) ** 2)) * count / (count - 1) / n**2

    seed = by_seed.var(ddof=1) / seeds
    clip = spread(difference.mean(axis=0))
    both = sum(spread(row - difference.mean(axis=0)) for row in difference) / (seeds - 1) / seeds
    parts, total = [(seed, seeds - 1)], seed
    if clip > both:
        parts += [(clip, count - 1), (both, (count - 1) * (seeds - 1))]
        total += clip - both
    if draws is not None:
        many = draws.shape[1]
        mean = draws.mean(axis=0)
        own = mean.mean(axis=1).var(ddof=1) / many
        with_clips = sum(spread(row - mean.mean(axis=0)) for row in mean) / (many - 1) / many
        table = draws.mean(axis=2)
        crossed = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        with_seeds = (crossed**2).sum() / (many - 1) / (seeds - 1) / many / seeds
        rest = draws - draws.mean(axis=1, keepdims=True) - mean + mean.mean(axis=0)
        of_all = sum(spread(row) for each in rest for row in each) / (many - 1) / (seeds - 1) / many / seeds
        added = max(own - with_clips - with_seeds + of_all, 0)
        total += added
        if added:
            parts += [(own, many - 1), (with_clips, (many - 1) * (count - 1)), (with_seeds, (many - 1) * (seeds - 1))]
    df = max(1, total**2 / sum(variance**2 / each for variance, each in parts))
    margin = stats.t.ppf(0.975, df) * np.sqrt(total)
    return value, value - margin, value + margin


def cell(study, column: str, variant: str) -> list[float]:
    row = next(
        row for row in lines(study / "report/grid.csv") if (row["benchmark"], row["variant"]) == (column, variant)
    )
    return [float(row[name]) for name in ("difference", "difference_low", "difference_high")]


def test_rows_grids_and_differences_are_those_of_the_records(reported):
    tasks, report = reported
    rows = lines(report.folder / "results.csv")
    counts = {task: sum(row["task"] == task for row in rows) for task in ("probe", "few_shot", "robustness", "text")}
    assert counts == {"probe": 0, "few_shot": 9 * 3, "robustness": 9 * 8, "text": 9 * 2 * 7}

    def share(key):
        return lambda found: (np.atleast_2d(found[key]) == found["labels"]).mean(axis=0)

    draws = [
        [predictions(tasks, "few_shot", name, s)["target.shots-5"] == np.arange(CLIPS) % 8 for s in SEEDS]
        for name in ("fwm", "baseline")
    ]
    by_draw = np.subtract(*(np.stack(each).astype(float) for each in draws))
    expected = paired_interval(moved(tasks, "few_shot", share("target.shots-5"), "fwm"), VIDEOS, by_draw)
    assert cell(tasks, "motion8, standard, 5 shots", "fwm") == pytest.approx(100 * np.array(expected), abs=0.006)

    episodes = moved(tasks, "few_shot", lambda found: found["target.episodes-5way-1shot"] / 75, "fwm")
    expected = paired_interval(episodes, np.arange(EPISODES))
    assert cell(tasks, "motion8, standard, 5-way 1-shot episodes", "fwm") == pytest.approx(
        100 * np.array(expected), abs=0.006
    )

    def mean_over_corruptions(found):
        return np.mean(
            [
                np.mean([share(f"target.linear.{name}.{level + 1}")(found) for level in range(count)], axis=0)
                for name, count in CORRUPTIONS.items()
            ],
            axis=0,
        )

    expected = paired_interval(moved(tasks, "robustness", mean_over_corruptions, "fwm"), VIDEOS)
    column = "motion8, standard, linear, mean over corruptions"
    assert cell(tasks, column, "fwm") == pytest.approx(100 * np.array(expected), abs=0.006)
    expected = paired_interval(moved(tasks, "robustness", share("target.linear.blur.2"), "ld"), VIDEOS)
    column = "motion8, standard, linear, blur, severity 2"
    assert cell(tasks, column, "ld") == pytest.approx(100 * np.array(expected), abs=0.006)

    for depth, name in ((1, "R@1"), (5, "R@5"), (10, "R@10")):
        for direction, clusters in (("video_to_text", VIDEOS), ("text_to_video", np.arange(CLIPS))):
            recall = moved(
                tasks, "text", lambda found, d=direction, k=depth: (found[f"target.{d}.0.5"] < k).mean(axis=0), "fwm"
            )
            column = f"motion8, standard, {direction}, dropout 0.5, random, {name}"
            expected = 100 * np.array(paired_interval(recall, clusters))
            assert cell(tasks, column, "fwm") == pytest.approx(expected, abs=0.006)


def test_a_planted_gain_is_found_in_every_task_and_nothing_else(reported):
    _, report = reported
    found = {
        (grid.task, row): contrast.significant
        for grid in report.data.task_grids
        for row, _, contrast in grid.all_contrasts()
        if contrast.asked and "class" not in grid.part
    }
    assert found == {
        (task, name): name == "fwm" for task in ("few_shot", "robustness", "text") for name in ("fwm", "ld")
    }
    families = {grid.task: grid.family for grid in report.data.task_grids}
    assert families == {"few_shot": 2 * 3, "robustness": 2, "text": 2 * 4}
    beside = [
        contrast
        for grid in report.data.task_grids
        for row, column, contrast in grid.all_contrasts()
        if "blur" in column or "R@5" in column
    ]
    assert beside and not any(contrast.asked or contrast.significant for contrast in beside)


def test_every_export_has_the_tasks(reported):
    _, report = reported
    folder = report.folder
    for name in ("tables.md", "tables.tex", "results.txt"):
        text = " ".join((folder / name).read_text().split())
        for part in ("few-shot accuracy, motion8, standard", "5-way 1-shot episodes", "mean over corruptions", "R@10"):
            assert part in text, (name, part)
    content = json.loads((folder / "report.json").read_text())
    assert {grid["task"] for grid in content["grids"]} == {"few_shot", "robustness", "text"}
    assert {row["task"] for row in content["results"]} == {"few_shot", "robustness", "text"}
    assert {row["encoder"] for row in content["robustness"]} == set(GAIN)
    rows = lines(folder / "grid.csv")
    assert {row["metric"] for row in rows} == {"accuracy", "R@1", "R@5", "R@10"}
    assert {row["condition"] for row in rows if row["task"] == "few_shot"} == {
        "1 shot",
        "5 shots",
        "5-way 1-shot episodes",
    }


def test_classes_are_measured_beside_accuracy(reported):
    sklearn = pytest.importorskip("sklearn.metrics")
    tasks, report = reported
    for row in report.data.task_rows:
        if row.variant != "fwm" or row.seed != 1 or row.condition not in ("5 shots", "blur, severity 2"):
            continue
        key = "target.shots-5" if row.task == "few_shot" else "target.linear.blur.2"
        found = predictions(tasks, row.task, "fwm", 1)
        f1 = [sklearn.f1_score(found["labels"], each, average="macro") for each in found[key]]
        balanced = [sklearn.balanced_accuracy_score(found["labels"], each) for each in found[key]]
        assert row.macro_f1 == pytest.approx(100 * np.mean(f1))
        assert row.mean_class_accuracy == pytest.approx(100 * np.mean(balanced))
        assert row.predicted_classes == len(np.unique(found[key][0])) and row.majority == pytest.approx(12.5)
    named = [row for row in report.data.task_rows if row.metric == "top1" and row.task == "text"]
    assert named and all(row.macro_f1 is not None for row in named)
    assert all(row.macro_f1 is None for row in report.data.task_rows if row.metric.startswith("R@"))


def test_corruption_errors_are_those_of_the_records(reported):
    tasks, report = reported
    line = next(line for line in report.data.robustness if line.encoder == "fwm")
    right = {
        name: {
            case: np.mean(
                [
                    (lambda found: found[f"target.linear.{case}"] == found["labels"])(
                        predictions(tasks, "robustness", name, s)
                    ).mean()
                    for s in SEEDS
                ]
            )
            for case in ("clean.0", *(f"{c}.{k + 1}" for c, count in CORRUPTIONS.items() for k in range(count)))
        }
        for name in ("fwm", "baseline")
    }
    mean = {
        name: {c: np.mean([found[f"{c}.{k + 1}"] for k in range(count)]) for c, count in CORRUPTIONS.items()}
        for name, found in right.items()
    }
    error = np.mean([(1 - mean["fwm"][c]) / (1 - mean["baseline"][c]) for c in CORRUPTIONS])
    lost = {name: right[name]["clean.0"] - np.mean(list(mean[name].values())) for name in mean}
    kept = {name: np.mean(list(mean[name].values())) / right[name]["clean.0"] for name in mean}
    assert line.error == pytest.approx(error) and line.error_high < 1
    assert line.relative == pytest.approx(lost["fwm"] / lost["baseline"])
    assert line.retained == pytest.approx(100 * kept["fwm"])
    assert line.retained_gain == pytest.approx(100 * (kept["fwm"] - kept["baseline"]))
    worst = min(mean["fwm"], key=mean["fwm"].get)
    assert (line.worst, line.seeds, line.clusters) == (worst, 3, 80)
    assert line.worst_loss == pytest.approx(100 * (right["fwm"]["clean.0"] - mean["fwm"][worst]))


@pytest.mark.parametrize(
    ("task", "change", "named"),
    [
        ("few_shot", lambda result: result.update(shots=7), "shots"),
        ("robustness", lambda result: result.update(corruption="fog"), "corruptions"),
        ("text", lambda result: result.update(dropout=0.9), "dropped"),
    ],
)
def test_records_of_other_conditions_are_refused_with_both_files(tasks, task, change, named):
    path = tasks / f"quickstart/fwm/seed-1/eval/{task}/motion8.standard.json"
    record = json.loads(path.read_text())
    change(record["results"][1])
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=named) as error:
        collect(tasks)
    assert str(path) in str(error.value)
    assert str(tasks / f"quickstart/baseline/seed-0/eval/{task}/motion8.standard.json") in str(error.value)


def test_records_of_another_class_pool_are_refused(tasks):
    path = tasks / "quickstart/fwm/seed-1/eval/few_shot/motion8.standard.json"
    record = json.loads(path.read_text())
    pool = {"needed": 5, "classes": [0, 1, 2], "left_out": {"x": 1}}
    path.write_text(json.dumps({**record, "pools": {"draws": pool}}))
    with pytest.raises(InputError, match="class pool"):
        collect(tasks)


@pytest.mark.parametrize("task", ["few_shot", "robustness", "text"])
def test_a_record_that_its_predictions_contradict_is_named_and_left_out(tasks, task):
    path = tasks / f"quickstart/fwm/seed-1/eval/{task}/motion8.standard.json"
    record = json.loads(path.read_text())
    result = record["results"][-1]
    result["value"] = result["low"] = result["high"] = round(result["value"] / 2, 3)
    path.write_text(json.dumps(record))
    data = collect(tasks)
    assert [line for line in data.gaps if str(path) in line]
    left = {(row.variant, row.seed) for row in data.task_rows if row.task == task}
    assert ("fwm", 1) not in left and len(left) == 8


def test_probes_alone_have_the_columns_that_they_had(study):
    folder = write_report([study]).folder
    assert "task" not in (folder / "results.csv").read_text().splitlines()[0].split(",")
    assert "task" not in (folder / "grid.csv").read_text().splitlines()[0].split(",")
    content = json.loads((folder / "report.json").read_text())
    assert not any("task" in entry for entry in (*content["grids"], *content["results"]))
    assert "robustness" not in content and not (folder / "robustness.csv").exists()
