"""Runs as evidence: grids, claims and curves of a study with several seeds, and records that are not comparable."""

import csv
import json
import re

import numpy as np
import pytest
from scipy.stats import t

from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation import record
from hpc_jepa.report.published_results import PUBLISHED_RESULTS
from hpc_jepa.report.write_report import write_report
from hpc_jepa.study.grid import create_study_dir


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def grid(write):
    """Two seeds of the mixed regime: fwm far above the baseline on ImageNet-100, ld as good as it, delta missing."""
    shares = {"baseline": (0.25, 1e-5), "fwm": (0.40, 2e-5), "ld": (0.25, 1e-5)}  # slope: no two seeds of fwm tie
    for seed in (42, 239):
        for salt, (variant, (share, slope)) in enumerate(shares.items()):
            run = write.run(variant, seed=seed, regime="mixed")
            write.evaluated(run, {"target": {"linear": share + seed * slope}}, salt=salt, benchmark="imagenet100")
        write.run("delta", seed=seed, regime="mixed")
    return write.root / "demo"


def test_seeds_are_replicates_and_a_missing_cell_is_missing(grid):
    found = {row["variant"]: row for row in rows(write_report([grid]).folder / "grid.csv")}
    assert found["fwm"]["seeds"] == "2" and found["fwm"]["test"] == "t test paired by seed"
    assert float(found["fwm"]["difference"]) == pytest.approx(15, abs=0.2)
    assert (found["fwm"]["significant"], found["ld"]["significant"]) == ("True", "False")
    assert found["delta"]["value"] == "missing" and found["delta"]["difference"] == ""


def test_claims_are_evaluated_on_runs_and_published_numbers_side_by_side(grid):
    folder = write_report([grid], published=PUBLISHED_RESULTS).folder
    ours = {row["id"]: row for row in rows(folder / "claims.csv")}
    assert list(next(iter(ours.values())))[5:] == ["high", "verdict", "caveats", "notes"]
    assert rows(folder / "claims.demo.corrected_semantics.csv") == list(ours.values())
    printed = {row["id"]: row["verdict"] for row in rows(folder / "claims.published_numbers.csv")}
    assert printed["mix_fwm_in100"] == "supported"
    assert ours["mix_fwm_in100"]["verdict"] == "contradicted"  # 15 points, where 1.88 were published
    assert ours["mix_fhl_in100"]["verdict"] == "undecided" and ours["mix_fhl_in100"]["computed"] == ""
    page = (folder / "index.html").read_text()
    assert "demo, corrected semantics" in page and "fwm_hw_ld (mixed, imagenet100)" in page


def test_both_semantics_are_audited_separately(write):
    for semantics in ("published", "corrected"):
        for salt, (variant, share) in enumerate({"baseline": 0.25, "fwm": 0.27}.items()):
            run = write.run(variant, semantics, regime="mixed")
            write.evaluated(run, {"target": {"linear": share}}, salt=salt, benchmark="imagenet100")
    folder = write_report([write.root / "demo"]).folder
    facts = json.loads((folder / "report.json").read_text())
    assert list(facts["claims"]) == ["demo, corrected semantics", "demo, published semantics"]
    for judged in facts["claims"].values():
        fwm = next(claim for claim in judged if claim["id"] == "mix_fwm_in100")
        assert fwm["verdict"] == "undecided" and fwm["low"] < 0 < 1.88 < fwm["high"]


def test_a_claim_about_seeds_uses_exactly_those_seeds(grid):
    found = {row["id"]: row for row in rows(write_report([grid]).folder / "claims.csv")}
    assert float(found["re_seed_in100"]["computed"]) == pytest.approx(-0.2, abs=0.11)  # 252 against 250 of 1,000 clips


def test_single_seeds_are_compared_on_the_clips_alone_and_never_called_significant(study):
    found = {row["variant"]: row for row in rows(write_report([study]).folder / "grid.csv")}
    right = {}
    for name, run in (("baseline", "baseline"), ("fwm_hw_ld", "fwm_hw_ld")):
        with np.load(study / f"quickstart/{run}/seed-0/eval/motion8.standard.npz") as arrays:
            right[name] = (arrays["target.linear"] == arrays["labels"])[0].astype(float)
    gain = right["fwm_hw_ld"] - right["baseline"]
    line = found["fwm_hw_ld"]
    margin = t.isf(0.025, gain.size - 1) * gain.std(ddof=1) / np.sqrt(gain.size)
    assert float(line["difference"]) == pytest.approx(100 * gain.mean(), abs=0.01)
    assert float(line["difference_high"]) - float(line["difference"]) == pytest.approx(100 * margin, abs=0.02)
    assert float(line["p"]) < 1e-10 and (line["p_holm"], line["significant"]) == ("", "False")
    assert (line["common_seeds"], line["in_family"], line["clusters"]) == ("1", "False", "unknown")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": {"train": "a" * 64, "test": "c" * 64}}, "test split"),
        ({"data": {"train": "d" * 64, "test": "b" * 64}}, "training split"),
        ({"protocol_fingerprint": "f" * 16}, "protocol"),
        ({"classes": 9}, "classes"),
    ],
)
def test_records_of_different_splits_or_protocols_are_refused_naming_both(write, changes, message):
    first = write.evaluated(write.run("baseline"), {"target": {"linear": 0.3}})
    second = write.evaluated(write.run("ld"), {"target": {"linear": 0.4}}, **changes)
    with pytest.raises(InputError, match=message) as caught:
        write_report([write.root / "demo"])
    assert str(first) in str(caught.value) and str(second) in str(caught.value)
    assert not (write.root / "demo/report").exists()


def test_records_with_different_test_samples_are_refused(write):
    write.evaluated(write.run("baseline"), {"target": {"linear": 0.3}})
    write.labels = write.labels[::-1].copy()
    write.evaluated(write.run("ld"), {"target": {"linear": 0.3}})
    with pytest.raises(InputError, match="test samples"):
        write_report([write.root / "demo"])


def test_labels_beyond_the_number_of_classes_are_refused(write):
    write.evaluated(write.run("baseline"), {"target": {"linear": 0.3}}, classes=5)
    with pytest.raises(DataError, match=r"motion8\.standard\.json: .*5 classes.*class 7"):
        write_report([write.root / "demo"])


def test_a_record_that_contradicts_its_predictions_is_damaged(write):
    path = write.evaluated(write.run("baseline"), {"target": {"linear": 0.3}})
    whole = path.read_text()
    path.write_text(re.sub(r'"value": 0.3\b', '"value": 0.9', whole))
    with pytest.raises(DataError, match=r"0\.9000.*0\.3000"):
        write_report([write.root / "demo"])
    path.write_text(whole)
    path.with_suffix(".npz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"motion8\.standard\.npz"):
        write_report([write.root / "demo"])


def test_cells_of_the_study_that_never_started_are_missing(write):
    config = StudyConfig(study="demo", regimes=("quickstart",), variants=("baseline", "ld"), seeds=(0, 1))
    create_study_dir(config, write.root)
    run = write.run("baseline")
    write.evaluated(run, {"random_init": {"linear": 0.2}, "target": {"linear": 0.3}})
    gaps = write_report([write.root / "demo"]).data.gaps
    assert [line.split(" (quickstart)")[0] for line in gaps] == [
        "baseline (corrected), seed 1",
        "ld (corrected), seed 0",
        "ld (corrected), seed 1",
    ]
    assert write_report([run]).data.gaps == []  # a report on one run alone


def test_external_encoders_are_rows_of_their_own_and_appear_once(write):
    for variant in ("baseline", "ld"):
        write.evaluated(write.run(variant), {"target": {"linear": 0.3}, "timm:vit_tiny": {"linear": 0.5}})
    folder = write_report([write.root / "demo"]).folder
    (row,) = (row for row in rows(folder / "results.csv") if row["variant"] == "timm:vit_tiny")
    assert (row["semantics"], row["steps"], row["weights"]) == ("none", "0", "timm:vit_tiny")
    assert [row["variant"] for row in rows(folder / "grid.csv")] == ["baseline", "ld", "timm:vit_tiny"]


def test_few_shot_and_robustness_curves_and_corruption_error_relative_to_the_baseline(write):
    for variant, loss in (("baseline", 0.4), ("ld", 0.2)):
        run = write.run(variant)
        write.evaluated(run, {"target": {"linear": 0.9}})
        write.few_shot(run, {1: 0.3, 5: 0.5, 10: 0.6})
        write.robustness(run, 0.9, (0.9 - loss / 2, 0.9 - loss))
    report = write_report([write.root / "demo"])
    page = (report.folder / "index.html").read_text()
    assert "<figcaption>motion8, standard, quickstart</figcaption>" in page
    assert "<figcaption>noise: motion8, standard, quickstart, linear probe</figcaption>" in page
    errors = {line.encoder.split(" ")[0]: line.error for line in report.data.robustness}
    assert errors == pytest.approx({"baseline": 1.0, "ld": (0.2 + 0.3) / (0.3 + 0.5)})
    assert [line.consistency for line in report.data.robustness] == pytest.approx([70, 85])


def test_few_shot_records_of_another_test_split_are_refused(write):
    for variant in ("baseline", "ld"):
        run = write.run(variant)
        write.evaluated(run, {"target": {"linear": 0.9}})
        path = write.few_shot(run, {1: 0.3})
    facts = json.loads(path.read_text())
    facts["data"]["test"] = "e" * 64
    path.write_text(json.dumps(facts))
    assert record.read_record(record.FewShotRecord, path).data["test"] == "e" * 64
    with pytest.raises(InputError, match=r"few_shot/motion8\.standard\.json.*test split"):
        write_report([write.root / "demo"])


def test_classes_that_few_shot_records_leave_out_are_named_once(write):
    pool = {"needed": 20, "classes": tuple(range(7)), "left_out": {"seldom seen": 3}}
    for variant in ("baseline", "ld"):
        run = write.run(variant)
        write.evaluated(run, {"target": {"linear": 0.9}})
        write.few_shot(run, {1: 0.3}, pools={"draws": pool})
    report = write_report([write.root / "demo"])
    (line,) = [line for line in report.data.gaps if "seldom seen (3)" in line]
    assert "7 of 8" in line and line in (report.folder / "index.html").read_text()


def test_few_shot_records_of_another_class_pool_are_refused(write):
    for variant, classes in (("baseline", 7), ("ld", 8)):
        run = write.run(variant)
        write.evaluated(run, {"target": {"linear": 0.9}})
        write.few_shot(run, {1: 0.3}, pools={"draws": {"needed": 20, "classes": tuple(range(classes))}})
    with pytest.raises(InputError, match=r"few_shot/motion8\.standard\.json.*pool"):
        write_report([write.root / "demo"])


def test_the_page_has_no_claims_table_if_runs_have_no_cell_of_any_claim(study):
    page = (write_report([study]).folder / "index.html").read_text()
    assert '<table class="claims">' not in page and "claims.csv" in page


def test_claims_on_runs_are_counted_and_unknown_ones_named(grid):
    report = write_report([grid])
    assert report.data.headlines[-1].startswith("48 claims on demo, corrected semantics")
    page = (report.folder / "index.html").read_text()
    assert "ucf_mg_d48" in page
