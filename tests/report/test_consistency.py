"""The mark of the grid, the verdict of a claim and the first sentence of an answer agree on one comparison."""

import re

import numpy as np
import pytest
from simulated_answers import Luck, SimulatedAnswers

from hpc_jepa.report.answer_text import answer_sentences
from hpc_jepa.report.claims import Claim
from hpc_jepa.report.questions import answer_questions, judge_by_questions
from hpc_jepa.report.report_data import collect_run_data
from hpc_jepa.report.result_grid import SIGNIFICANCE
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.report.study_evidence import collect_evidence
from hpc_jepa.report.study_grid import study_grids, task_grids
from hpc_jepa.report.verdicts import evaluate_claim
from tests.report.asked_study import AskedStudy, asking

SIMULATIONS = 40
VARIANTS = ("baseline", "ld", "fwm_ld", "hw")
SIGNS = {"supported": 1, "contradicted": -1, "undecided": 0, "undecided: no comparison of the study": 0}
CONTRASTS = {
    "a variant and the baseline": {"groups": {"factorised": ["fwm_ld"], "plain": ["baseline"]}},
    "the baseline and a variant": {"groups": {"plain": ["baseline"], "factorised": ["fwm_ld"]}},
    "two variants": {"groups": {"factorised": ["fwm_ld"], "plain": ["ld"]}},
    "groups and baseline": {"groups": {"factorised": ["fwm_ld"], "plain": ["baseline"]}, "baseline": True},
    "each against the baseline": {"baseline": True},
}


def claim(first: str, second: str) -> Claim:
    """That one variant is better than the other."""
    facts = {"type": "argmax", "regime": "quickstart", "benchmark": "motion8_linear", "expected": first}
    predicate = {**facts, "variants": (first, second)}
    return Claim.model_validate({"id": "c", "statement": "better", "predicate": predicate})


def sign_of_claim(evidence, first: str, second: str) -> int:
    return SIGNS[evaluate_claim(claim(first, second), evidence).outcome.with_uncertainty]


def sign_of(contrast) -> int:
    return (1 if contrast.gain else -1) * contrast.significant


def said(sentence: str) -> int:
    """What a sentence on one comparison of groups decides."""
    return bool(re.search(r"\ba gain \(", sentence)) - bool(re.search(r"\ba loss \(", sentence))


def grid_signs(grids) -> dict[tuple[str, str], int]:
    """By row and reference, of the differences that are asked for."""
    found = [(row, contrast) for grid in grids for row, _, contrast in grid.all_contrasts() if contrast.asked]
    return {(row, contrast.reference): sign_of(contrast) for row, contrast in found}


def check(study, data_runs, scores, grids, answer) -> list[int]:
    """The signs of all comparisons of two rows, which are the same wherever they are said."""
    signs = grid_signs(grids)
    (evidence,) = collect_evidence(scores, grids, data_runs, answer)
    found = []
    for asked in answer.contrasts:
        (first, second), sign = sorted(asked.weights, key=lambda name: -asked.weights[name]), sign_of(asked.contrast)
        claims = sign_of_claim(evidence, first, second), sign_of_claim(evidence, second, first)
        assert claims == (sign, -sign)
        in_grid = {signs[pair] * turn for pair, turn in (((first, second), 1), ((second, first), -1)) if pair in signs}
        assert in_grid <= {sign} and (in_grid or "baseline" not in (first, second))
        if asked.kind == "groups":
            assert said(answer_sentences(answer)[0].partition("; each variant")[0]) == sign
        found.append(sign)
    asked_pairs = {frozenset(asked.weights) for asked in answer.contrasts}
    assert {frozenset(pair) for pair in signs} <= asked_pairs
    return found


@pytest.mark.parametrize("contrast", CONTRASTS.values(), ids=CONTRASTS)
def test_grid_claims_and_first_sentence_agree(contrast):
    """Differences of a size that is found in some simulations and not in others."""
    study = asking(contrast, variants=VARIANTS)
    simulated = SimulatedAnswers(study, lambda config: 0.05 * (config.variant == "fwm_ld"), Luck(clips=600))
    rng = np.random.default_rng(7)
    signs = []
    for _ in range(SIMULATIONS):
        scores = simulated.draw(rng)
        (answer,) = answer_questions([scores], {study.study: study})
        grids = judge_by_questions(study_grids(scores, simulated.runs), [answer])
        signs += check(study, simulated.runs, scores, grids, answer)
    assert {0, 1} <= {abs(sign) for sign in signs}


@pytest.mark.parametrize("salt", range(3))
def test_the_report_of_records_agrees_with_itself(tmp_path, salt):
    study = asking(CONTRASTS["groups and baseline"], variants=VARIANTS)
    written = AskedStudy(tmp_path, lambda config, _: 0.5 + 0.08 * (config.variant == "fwm_ld"), salt=salt).write(study)
    data = collect_run_data(find_runs([written]), [written])
    check(study, data.runs, data.scores[0], data.study_grids(data.scores[0]), data.answers[0])


def test_curves_part_where_the_grid_marks_a_gain_and_nowhere_else():
    study = asking(CONTRASTS["a variant and the baseline"], "few_shot", variants=VARIANTS)
    simulated = SimulatedAnswers(study, lambda config: 0.07 * (config.variant == "fwm_ld"), Luck(clips=600))
    rng, seen = np.random.default_rng(8), set()
    for _ in range(SIMULATIONS):
        scores = simulated.draw(rng)
        (answer,) = answer_questions([scores], {study.study: study})
        marks = {
            column: contrast
            for grid in judge_by_questions(task_grids(scores, simulated.runs), [answer])
            for _, column, contrast in grid.all_contrasts()
            if contrast.asked
        }
        for asked in answer.contrasts:
            low, high = asked.contrast.bounds
            decided = sign_of(asked.contrast)
            assert sign_of(marks[str(asked.column)]) == decided == (low >= 0) - (high <= 0)
            assert asked.contrast.significant == (asked.contrast.adjusted < SIGNIFICANCE)
            seen.add(decided)
        sentence = answer_sentences(answer)[0]
        curve = [asked for asked in answer.contrasts if "episodes" not in asked.column.condition]
        assert ("nowhere told apart" in sentence) <= (not any(sign_of(asked.contrast) for asked in curve))
    assert {0, 1} <= seen
