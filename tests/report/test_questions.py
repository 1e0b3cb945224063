"""Answers to the question of a study: planted effects are named, null ones are not, numbers are of the records."""

import csv
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from hpc_jepa.config.about import ContrastConfig, OutcomeConfig
from hpc_jepa.evaluation.record import RobustnessRecord, read_predictions, read_record
from hpc_jepa.report.answer_text import answer_sentences, has_parted
from hpc_jepa.report.comparisons import ColumnScores, StudyScores
from hpc_jepa.report.questions import answer_questions, position_of
from hpc_jepa.report.report_data import collect_run_data
from hpc_jepa.report.result_grid import Contrast
from hpc_jepa.report.results import ResultColumn
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.report.write_report import write_report
from tests.report.asked_study import BOTH, CLIPS, CORRUPTIONS, AskedStudy, asking

GROUPS = {"groups": {"factorised": ["fwm_ld"], "plain": ["ld"]}}
FACTORS = {
    "factors": {
        "factorised": [["baseline", "ltc"], ["fwm", "fwm_ltc"]],
        "contrastive": [["baseline", "fwm"], ["ltc", "fwm_ltc"]],
    }
}
DESIGN = ("baseline", "fwm", "ltc", BOTH)


@pytest.fixture
def collect(tmp_path):
    """``collect(study, accuracy, **luck)``: content of the report on simulated records of a study, without drawing."""

    def run(study, accuracy, **luck):
        folder = AskedStudy(tmp_path / "runs", accuracy, **luck).write(study)
        return collect_run_data(find_runs([folder]), [folder])

    return run


def gain_of_fwm(gain, only=None):
    """Accuracy of one half, and more with fwm: under the conditions ``only``, else under all."""
    return lambda config, condition: 0.5 + gain * ("fwm" in config.variant and (only is None or condition in only))


@pytest.mark.parametrize("task", ["probe", "few_shot", "robustness"])
def test_a_planted_effect_is_named_first_with_its_cause(collect, task):
    data = collect(asking(GROUPS, task), gain_of_fwm(0.15))
    first = data.answer_sentences[0]
    assert first.startswith("asked: factorised (fwm_ld) against plain (ld), which differ in fwm alone")
    assert "gain" in first and "not decided" not in first
    (answer,) = data.answers
    assert {asked.outcome for asked in answer.contrasts} == {"gain"}
    assert all(asked.needed is None for asked in answer.contrasts)


def test_a_planted_loss_is_named(collect):
    (answer,) = collect(asking(GROUPS), gain_of_fwm(-0.15)).answers
    assert [asked.outcome for asked in answer.contrasts] == ["loss"]
    assert "a loss" in answer_sentences(answer)[0]


def test_of_one_seed_no_gain_is_said(collect):
    data = collect(asking({**GROUPS, "baseline": True}, seeds=(0,)), gain_of_fwm(0.3))
    text = " ".join(data.answer_sentences)
    assert "single runs" in text and not re.search(r"\b(gains?|loss(es)?|Holm)\b", text)
    assert all(asked.outcome is None and asked.needed is None for asked in data.answers[0].contrasts)


def test_a_null_effect_is_not_decided_and_says_how_many_seeds_would(collect):
    data = collect(asking(GROUPS), gain_of_fwm(0.0))
    (asked,) = data.answers[0].contrasts
    assert asked.outcome is None and asked.needed is not None
    assert "not decided" in data.answer_sentences[0] and asked.needed.clause in data.answer_sentences[0]


def test_of_equal_encoders_no_number_of_seeds_is_said_to_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(AskedStudy, "right", lambda self, config, *_, **__: np.arange(CLIPS) % 3 == config.seed % 2)
    folder = AskedStudy(tmp_path / "runs", lambda config, condition: 0.5).write(asking(GROUPS))
    data = collect_run_data(find_runs([folder]), [folder])
    (asked,) = data.answers[0].contrasts
    assert asked.contrast.points == 0 and asked.needed.seeds is None
    assert "not decided" in data.answer_sentences[0] and not re.search(r"seeds would(?! not)", data.answer_sentences[0])


@pytest.mark.parametrize("points", [-1e-17, -0.004, 0.0])
def test_what_rounds_to_zero_has_no_minus_sign(points):
    contrast = Contrast("ld", points, -2.0, 2.0, 1.0, None, "t")
    assert contrast.signed(points) == "+0.00" and math.copysign(1, contrast.rounded(points)) == 1


def test_intervals_of_episodes_are_not_said_to_hold_for_new_clips(collect):
    def sampled(*conditions):
        study = asking(GROUPS, "few_shot", conditions=list(conditions))
        return collect(study, gain_of_fwm(0.0)).answer_sentences[0].partition("intervals")[2].partition(": ")[0]

    draws, episodes = sampled("1 shot"), sampled("5-way 1-shot episodes")
    assert "draws" in draws and "episodes" not in draws
    assert "episodes" in episodes and "draws" not in episodes and "new clips" not in episodes


def test_curves_part_where_the_effect_begins(collect):
    few = collect(asking(GROUPS, "few_shot", conditions=["1 shot", "5 shots", "20 shots"]), gain_of_fwm(0.2, (5, 20)))
    assert "they part from 5 on, gains" in few.answer_sentences[0]
    text = collect(
        asking(GROUPS, "text", metric="R@1", conditions="video_to_text", seeds=tuple(range(8))),
        gain_of_fwm(0.2, (0.5, 0.875)),
    )
    assert [has_parted(asked) for asked in text.answers[0].contrasts] == [False, True, True]
    assert "they part from 50 % dropped on, gains" in text.answer_sentences[0]


def test_text_is_compared_along_all_curves(collect):
    data = collect(asking(GROUPS, "text"), gain_of_fwm(0.0))
    (answer,) = data.answers
    assert answer.family == 2 * 3 * 3  # directions, R@1, R@5, R@10, dropouts
    assert [position_of(asked.column) for asked in answer.contrasts[:3]] == [0.0, 0.5, 0.875]
    assert "and 2 further curves" in data.answer_sentences[0]


def test_the_interaction_of_a_design_is_named(collect):
    def accuracy(config, condition):
        return 0.5 + 0.2 * (config.variant == "fwm_ltc")

    data = collect(asking(FACTORS, variants=DESIGN), accuracy)
    by_name = {asked.name: asked for asked in data.answers[0].contrasts}
    assert by_name["factorised x contrastive"].outcome == "gain"
    assert by_name["factorised x contrastive"].contrast.points == pytest.approx(20, abs=8)
    assert by_name["factorised"].contrast.points == pytest.approx(10, abs=4)
    assert "each adds more beside the other" in data.answer_sentences[0]
    assert data.factorial == []  # the design is the question: it is judged once


def test_the_contrasts_are_those_of_the_records(collect):
    """Means over seeds and clips by numpy; with three variants a contrast is a paired t test with a clip part."""
    data = collect(asking(FACTORS, variants=DESIGN, seeds=(0, 1, 2, 3)), gain_of_fwm(0.1))
    first = data.answer_sentences[0]
    assert all(part in first for part in ("(fwm, fwm_ltc)", "(ltc, fwm_ltc)", "accuracy", "95 %", "4 seeds"))
    by_name = {asked.name: asked.contrast for asked in data.answers[0].contrasts}
    right = {}
    for run in data.runs:
        ((path, record),) = run.records.items()
        predictions = read_predictions(path, record)
        correct = predictions["target.linear_tubelets"] == predictions["labels"]
        right[run.config.variant, run.config.seed] = 100 * correct.mean()
    of = {name: np.array([right[name, seed] for seed in range(4)]) for name in ("baseline", "fwm", "ltc", "fwm_ltc")}
    interaction = of["fwm_ltc"] - of["fwm"] - of["ltc"] + of["baseline"]
    factorised = (of["fwm_ltc"] + of["fwm"] - of["ltc"] - of["baseline"]) / 2
    assert by_name["factorised x contrastive"].points == pytest.approx(interaction.mean())
    assert by_name["factorised"].points == pytest.approx(factorised.mean())


def test_holm_is_over_what_is_asked_and_the_grid_agrees(collect):
    study = asking({**GROUPS, "baseline": True}, variants=("baseline", "ld", "fwm_ld", "hw"))
    data = collect(study, gain_of_fwm(0.05))
    (answer,) = data.answers
    assert [asked.kind for asked in answer.contrasts] == ["groups", "baseline", "baseline", "baseline"]
    p_values = np.array([asked.contrast.p_value for asked in answer.contrasts])
    order = np.argsort(p_values)
    expected = np.empty(4)
    expected[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * np.arange(4, 0, -1)))
    assert [asked.contrast.adjusted for asked in answer.contrasts] == pytest.approx(expected.tolist())
    (grid,) = data.grids
    assert grid.family == 4
    shown = {row: contrast.adjusted for row, _, contrast in grid.all_contrasts()}
    assert shown == {asked.name: asked.contrast.adjusted for asked in answer.of_kind("baseline")}
    assert not any("differences to the baseline over several seeds" in line for line in data.headlines)


def test_differences_that_the_study_does_not_ask_for_have_no_verdict(collect):
    data = collect(asking(GROUPS), gain_of_fwm(0.2))
    (grid,) = data.grids
    assert not any(contrast.asked or contrast.significant for _, _, contrast in grid.all_contrasts())


def test_a_group_that_differs_in_settings_too_is_no_gain(collect):
    slow = {"objective": "fwm_ld", "name": "slow", "overrides": ["schedule.lr=1e-4"]}
    study = asking({"groups": {"slow": ["slow"], "plain": ["ld"]}}, variants=("baseline", "ld", slow))
    data = collect(study, lambda config, condition: 0.5 + 0.2 * (config.variant == "slow"))
    (asked,) = data.answers[0].contrasts
    assert asked.contrast.significant and asked.outcome is None and asked.alone == ()
    assert "also differs in schedule.lr" in data.answer_sentences[0] and "a gain" not in data.answer_sentences[0]


def test_of_two_groups_pairs_that_differ_alike_have_a_cause(collect):
    variants = ("baseline", "ld", "hw_ld", "fwm_ld", "fwm_hw_ld")
    pairs = {"groups": {"factorised": ["fwm_hw_ld", "fwm_ld"], "plain": ["ld", "hw_ld"]}}
    (asked,) = collect(asking(pairs, variants=variants), gain_of_fwm(0.1)).answers[0].contrasts
    assert asked.alone == ("objectives.fwm",)
    assert asked.weights == {"fwm_hw_ld": 0.5, "fwm_ld": 0.5, "ld": -0.5, "hw_ld": -0.5}
    uneven = {"groups": {"factorised": ["fwm_hw_ld"], "plain": ["ld"]}}
    (asked,) = collect(asking(uneven, variants=variants), gain_of_fwm(0.1)).answers[0].contrasts
    assert asked.alone == ("objectives.fwm", "objectives.hw")


def test_missing_results_are_named_instead_of_an_answer(tmp_path):
    study = asking({**GROUPS, "baseline": True}, benchmarks=("motion8_linear", "digits_linear"))
    folder = AskedStudy(tmp_path / "runs", gain_of_fwm(0.1)).write(study)
    for record in folder.glob("*/fwm_ld/*/eval/digits_linear*"):
        record.unlink()
    data = collect_run_data(find_runs([folder]), [folder])
    assert any("digits_linear" in line and "no results of fwm_ld" in line for line in data.answers[0].missing)
    assert "not answered" in data.answer_sentences[-1]
    for record in folder.glob("*/*/*/eval/motion8_linear*"):
        record.unlink()
    assert any("no results of task probe on motion8_linear" in s for s in write_report([folder]).data.answer_sentences)


def corruption_errors(ours, theirs):
    """Mean and relative corruption error, both shares of the clean accuracy in percent, and the place of the worst
    corruption, of error rates [1 + C], those on clean clips first.
    """
    error = np.mean(ours[1:] / theirs[1:])
    relative = (ours[1:].mean() - ours[0]) / (theirs[1:].mean() - theirs[0])
    retained = [100 * (1 - side[1:].mean()) / (1 - side[0]) for side in (ours, theirs)]
    return error, relative, retained, int(np.argmax(ours[1:]))


def error_rates(runs):
    """By variant [1 + C]: share of wrong answers on clean clips, and under each corruption, over severities, seeds."""
    errors = {}
    for run in runs:
        ((path, _),) = run.robustness.items()
        predictions = read_predictions(path, read_record(RobustnessRecord, path))
        rates = [
            np.mean([(v != predictions["labels"]).mean() for key, v in predictions.items() if f".{name}." in key])
            for name in ("clean", *CORRUPTIONS)
        ]
        errors.setdefault(run.config.variant, []).append(rates)
    return {name: np.mean(rates, axis=0) for name, rates in errors.items()}


def test_first_sentence_page_and_files_have_the_corruption_errors_of_the_records(tmp_path):
    def accuracy(config, condition):
        lost = {"clean": 0.0, **dict(zip(CORRUPTIONS, (0.1, 0.4, 0.5), strict=True))}[condition]
        return 0.8 - lost * (0.7 if "fwm" in config.variant else 1.0) - 0.05 * ("hw" in config.variant)

    groups = {"factorised": ["fwm_ld", "fwm_hw_ld"], "plain": ["ld", "hw_ld"]}
    variants = ("baseline", "ld", "hw_ld", "fwm_ld", "fwm_hw_ld")
    study = asking({"groups": groups}, "robustness", variants)
    report = write_report([AskedStudy(tmp_path / "runs", accuracy).write(study)])
    wrong = error_rates(report.data.runs)
    sides = [np.mean([wrong[name] for name in names], axis=0) for names in groups.values()]
    with (report.folder / "robustness.csv").open(newline="") as file:
        lines = {line["encoder"]: line for line in csv.DictReader(file)}
    named = [f"{name} ({', '.join(names)})" for name, names in groups.items()]
    assert list(lines)[:2] == named and {*lines} == {*named, *variants}
    expected = {named[0]: sides, named[1]: (sides[1], sides[1])}
    for encoder, (ours, theirs) in (expected | {name: (wrong[name], wrong["baseline"]) for name in variants}).items():
        error, relative, retained, worst = corruption_errors(ours, theirs)
        line = {name: float(lines[encoder][name]) for name in ("error", "relative", "retained", "retained_gain")}
        assert line == pytest.approx(
            {"error": error, "relative": relative, "retained": retained[0], "retained_gain": retained[0] - retained[1]},
            rel=1e-5,
            abs=1e-5,
        )
        assert lines[encoder]["worst"] == CORRUPTIONS[worst]

    error, relative, retained, worst = corruption_errors(*sides)
    line = lines[named[0]]
    assert float(line["error_low"]) < error < float(line["error_high"]) < 1 and float(line["relative_high"]) < 1
    ends = [
        f"{value:.3f} [{float(line[f'{name}_low']):.3f}, {float(line[f'{name}_high']):.3f}]"
        for name, value in (("error", error), ("relative", relative))
    ]
    shares = [f"{each:.1f}" for each in retained]
    texts = {name: " ".join((report.folder / name).read_text().split()) for name in ("tables.md", "results.txt")}
    page = (report.folder / "index.html").read_text()
    assert not re.search(r"\b1 comparisons\b", page)
    texts |= {"page": page[page.index("<h2>Robustness") :], "sentence": report.data.answer_sentences[0]}
    for name, text in texts.items():
        for part in (*ends, *shares, CORRUPTIONS[worst].replace("_", " ")):
            assert part in text.replace("\\", ""), name
    (summary,) = json.loads((report.folder / "report.json").read_text())["answers"][0]["corruption"]
    assert (summary["error"]["value"], summary["relative"]["value"]) == pytest.approx((error, relative))
    assert summary["retained"] == pytest.approx(retained)
    largest = np.argmax(sides[0][1:] / sides[1][1:])
    assert summary["worst_ratio"] == [CORRUPTIONS[largest], pytest.approx((sides[0][1:] / sides[1][1:])[largest])]


def test_measures_of_corruption_that_are_not_defined_are_called_so(collect):
    def accuracy(config, condition):
        return 0.6 if "fwm" in config.variant else 2.0  # all right

    data = collect(asking(GROUPS, "robustness"), accuracy)
    (found,) = data.corruption
    assert found.error is None and found.relative is None and found.worst_ratio is None
    assert data.answer_sentences[0].count("not defined") == 2
    assert found.retained == pytest.approx((100, 100), abs=15)


def test_answers_come_first_in_every_file(tmp_path):
    folder = AskedStudy(tmp_path / "runs", gain_of_fwm(0.15)).write(asking({**GROUPS, "baseline": True}))
    report = write_report([folder])
    first = report.data.answer_sentences[0]
    content = json.loads((report.folder / "report.json").read_text())
    assert content["findings"][0] == first == content["answers"][0]["sentences"][0]
    text = " ".join((report.folder / "results.txt").read_text().split())
    assert text.startswith(first)
    page = (report.folder / "index.html").read_text()
    assert page.index("asked: factorised (fwm_ld)") < page.index("<h2>")
    with (report.folder / "answers.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["contrast"] for line in lines] == ["factorised - plain", "fwm_ld", "ld"]
    assert float(lines[0]["difference"]) == pytest.approx(content["answers"][0]["contrasts"][0]["points"], abs=0.005)
    assert lines[0]["decided"] == "gain" and lines[0]["differs_alone_in"] == "objectives.fwm"


def test_a_study_without_a_question_has_no_answers(study):
    report = write_report([study])
    assert not report.data.answers and not (report.folder / "answers.csv").exists()
    assert "answers" not in json.loads((report.folder / "report.json").read_text())


STUDIES = 300


@pytest.mark.parametrize("contrast", [{**GROUPS, "baseline": True}, FACTORS], ids=["groups and baseline", "2 x 2"])
def test_under_the_null_a_false_answer_is_as_rare_as_stated(contrast):
    """Any gain or loss in a study without effects: at most 5 % of the studies, within the error of the simulation."""
    variants = DESIGN if "factors" in contrast else ("baseline", "ld", "fwm_ld")
    study = asking(contrast, variants=variants)
    assert ContrastConfig.model_validate(contrast) == study.about.contrast
    assert isinstance(study.about.outcome, OutcomeConfig)
    columns = [ResultColumn(name, "standard", "linear_tubelets") for name in ("motion8_linear",)]
    names = [variant.row for variant in study.variants]
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(STUDIES):
        scores = {}
        for column in columns:
            clip = rng.random(400)
            shared = rng.normal(0, 0.03, 3)
            rows = {
                (name, "corrected"): {
                    seed: (np.where(clip < 0.5, clip * 2, rng.random(400)) < 0.5 + luck + rng.normal(0, 0.02)) + 0.0
                    for seed, luck in enumerate(shared)
                }
                for name in names
            }
            scores["quickstart", column] = ColumnScores(column, rows, None)
        found = StudyScores("asked", scores, {column.benchmark: column for column in columns}, {}, {})
        (answer,) = answer_questions([found], {"asked": study})
        false += any(asked.contrast.significant for asked in answer.contrasts)
    assert false <= stats.binom.isf(1e-3, STUDIES, 0.05)
