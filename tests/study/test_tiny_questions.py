"""The five tiny studies from ``study submit`` to the first sentence of their reports, recomputed from the records."""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests import waiting

pytestmark = pytest.mark.slow

CLIPS = ["--size", "32", "--frames", "16", "--train", "40", "--test", "24", "--unlabelled", "32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the clips of the trial regime."""
    out = tmp_path_factory.mktemp("questions")
    _command(out, "shards", "build", "motion8", *CLIPS, "--out", "shards/trial")
    return out


@pytest.fixture
def answered(folder):
    """``answered(name)`` runs a study of configs/study/ and reads its report: folder of its runs, and answer."""

    def run(name):
        study = folder / "runs" / name
        _command(folder, "study", "submit", name, "--jobs", "2")
        _command(folder, "report", str(study))
        answer, *others = json.loads((study / "report" / "report.json").read_text())["answers"]
        assert not others and not answer["missing"]
        text = " ".join((study / "report" / "results.txt").read_text().split())
        assert text.startswith(answer["sentences"][0]) and answer["sentences"][0].startswith(f"{name}: ")
        with (study / "report" / "answers.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == len(answer["contrasts"]) == answer["family"]
        return study, answer

    return run


def _command(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = waiting.run([sys.executable, "-m", "hpc_jepa", *arguments], cwd=folder, env=environment)
    assert finished.returncode == 0, finished.stderr[-4000:] + finished.stdout[-2000:]


def scores(study, task, key, regime="trial"):
    """Score of each clip by variant and seed, from the predictions: {variant: [S, n]}."""
    folder = "eval" if task == "probe" else f"eval/{task}"
    found: dict[str, list[np.ndarray]] = {}
    for file in sorted((study / regime).glob(f"*/seed-*/{folder}/*.npz")):
        variant = file.relative_to(study / regime).parts[0]
        with np.load(file) as arrays:
            found.setdefault(variant, []).append(key(arrays))
    return {variant: np.stack(seeds) for variant, seeds in found.items()}


def right(name):
    """Reader of the share of right answers of each clip under a key of the predictions."""
    return lambda arrays: (np.atleast_2d(arrays[name]) == arrays["labels"]).mean(axis=0)


def two_way(gain):
    """Difference of a contrast ``gain`` [S, n] in points, and its p-value: seeds and clips, their interaction once."""
    seeds, n = gain.shape
    mean = gain.mean()
    of_seeds = gain.mean(axis=1)
    between = of_seeds.var(ddof=1) / seeds
    of_clips = gain.mean(axis=0)
    clips = max(of_clips.var(ddof=1) / n, 2 / (n + 2) ** 2)
    rest = gain - of_clips - (of_seeds - mean)[:, None]
    both = np.square(rest).sum() / (n - 1) / (seeds - 1) / seeds / n
    if of_seeds.var(ddof=1) < 1 / 12 / n**2:
        between = max(both * seeds, 1 / 12 / n**2) / seeds
    clip_part = max(clips - both, 0)
    parts = [between, clips if clip_part else 0, both if clip_part else 0]
    df = [seeds - 1, n - 1, (seeds - 1) * (n - 1)]
    variance = between + clip_part
    whole_df = max(1.0, variance**2 / sum(part**2 / own for part, own in zip(parts, df, strict=True)))
    return 100 * mean, 2 * stats.t.sf(abs(mean) / np.sqrt(variance), whole_df) if mean else 1.0


def test_transfer(answered):
    study, answer = answered("transfer_tiny")
    assert "factorised (fwm_ld) against non-factorised (ld), which differ in fwm alone" in answer["sentences"][0]
    assert "each variant against baseline (4 comparisons)" in answer["sentences"][0]
    for regime in ("trial", "trial_mixed"):
        found = scores(study, "probe", right("target.linear"), regime)
        points = {c["name"]: c["points"] for c in answer["contrasts"] if c["regime"] == regime}
        assert points["factorised - non-factorised"] == pytest.approx(100 * (found["fwm_ld"] - found["ld"]).mean())
        assert points["ld"] == pytest.approx(100 * (found["ld"] - found["baseline"]).mean())
    p_values = np.array([c["p_value"] for c in answer["contrasts"]])
    order = np.argsort(p_values, kind="stable")
    holm = np.empty(len(order))
    holm[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)))
    assert [c["adjusted"] for c in answer["contrasts"]] == pytest.approx(holm.tolist())


def test_alignment(answered):
    study, answer = answered("alignment_tiny")
    assert "factorised (fwm_ld) against plain (baseline)" in answer["sentences"][0]
    assert len(answer["contrasts"]) == 2 * 3  # directions; no frame, random and last ones lost
    for each in answer["contrasts"]:
        direction, dropout, lost = each["column"]["condition"].split(", ")
        share = dropout.removeprefix("dropout ")
        key = f"target.{direction}.{share}" + ("" if lost == "random" else f".{lost}")
        found = scores(study, "text", lambda arrays, key=key: (np.atleast_2d(arrays[key]) < 1).mean(axis=0))
        assert each["points"] == pytest.approx(100 * (found["fwm_ld"] - found["baseline"]).mean())


def test_few_shot(answered):
    study, answer = answered("few_shot_tiny")
    by_condition = {each["column"]["condition"]: each for each in answer["contrasts"]}
    assert set(by_condition) == {"1 shot", "2 shots", "3-way 1-shot episodes"}
    for shots, condition in ((1, "1 shot"), (2, "2 shots")):
        found = scores(study, "few_shot", right(f"target.shots-{shots}"))
        assert by_condition[condition]["points"] == pytest.approx(100 * (found["fwm_ld"] - found["ld"]).mean())
    found = scores(study, "few_shot", lambda arrays: arrays["target.episodes-3way-1shot"] / 3)
    episodes = by_condition["3-way 1-shot episodes"]["points"]
    assert episodes == pytest.approx(100 * (found["fwm_ld"] - found["ld"]).mean())


def test_cross_domain(answered):
    study, answer = answered("cross_domain_tiny")
    assert "interaction" in answer["sentences"][0] and "main effect of contrastive" in answer["sentences"][0]
    found = scores(study, "probe", right("target.linear"))
    points = {each["name"]: each["points"] for each in answer["contrasts"]}
    both, one, other, none = (found[name] for name in ("fwm_ld_ltc", "fwm_ld", "ltc", "baseline"))
    assert points["factorised x contrastive"] == pytest.approx(100 * (both - one - other + none).mean())
    assert points["factorised"] == pytest.approx(50 * (both + one - other - none).mean())
    assert points["contrastive"] == pytest.approx(50 * (both + other - one - none).mean())


def test_robustness(answered):
    study, answer = answered("robustness_tiny")
    names = ("reversal", "noise", "frame_dropout_last")

    def mean_over_corruptions(arrays):
        keys = {name: [key for key in arrays if key.startswith(f"target.linear.{name}.")] for name in names}
        return np.mean([np.mean([right(key)(arrays) for key in keys[name]], axis=0) for name in names], axis=0)

    found = scores(study, "robustness", mean_over_corruptions)
    (each,) = answer["contrasts"]
    points, p_value = two_way(found["fwm_ld"] - found["ld"])
    assert each["points"] == pytest.approx(points)
    assert each["p_value"] == pytest.approx(p_value, rel=0.02)
    (ratios,) = answer["corruption"]
    clean = scores(study, "robustness", right("target.linear.clean.0"))
    kept = [100 * found[name].mean() / clean[name].mean() for name in ("fwm_ld", "ld")]
    assert ratios["retained"] == pytest.approx(kept)
    assert set(ratios["accuracy"]) == set(names)
    assert Path(study, "report", "index.html").read_text().count("mean corruption error of factorised") >= 1
