import csv

import pytest

from hpc_jepa.errors import InputError
from hpc_jepa.report.write_report import write_report

COLUMNS = (
    "study,regime,variant,semantics,seed,weights,benchmark,protocol,probe,metric,value,low,high,n,steps,clusters,"
    "classes,mean_class_accuracy,macro_f1,predicted_classes,majority,target,unit,r2,r2_low,r2_high,constant"
)


def read_csv(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_csv_has_fixed_columns_and_one_line_per_result(study):
    folder = write_report([study]).folder
    assert folder == study / "report"
    lines = (folder / "results.csv").read_text().splitlines()
    assert lines[0] == COLUMNS
    assert len(lines) == 1 + 8


def test_values_are_percent_with_two_decimals(study):
    rows = read_csv(write_report([study]).folder)
    (row,) = (
        r for r in rows if r["semantics"] == "corrected" and r["variant"] == "fwm_hw_ld" and r["probe"] == "linear"
    )
    assert (row["value"], row["low"], row["high"]) == ("46.4", "43.33", "49.5")
    assert (row["n"], row["steps"], row["weights"], row["metric"]) == ("1000", "500", "target", "top1")


def test_the_random_encoder_appears_once_per_regime_and_seed(write):
    for variant in ("baseline", "fwm_hw_ld"):
        for seed in (0, 1):
            run = write.run(variant, seed=seed)
            write.evaluated(run, {"random_init": {"linear": 0.2}, "target": {"linear": 0.3}})
    rows = read_csv(write_report([write.root / "demo"]).folder)
    random = [row for row in rows if row["weights"] == "random_init"]
    assert [row["seed"] for row in random] == ["0", "1"]
    assert all((row["variant"], row["semantics"], row["steps"]) == ("random_init", "none", "0") for row in random)
    assert len(rows) == 2 + 4


def test_single_runs_are_reported_once_into_a_given_folder(study, tmp_path):
    run = study / "quickstart/fwm_hw_ld/seed-0"
    folder = write_report([run, run], tmp_path / "elsewhere").folder
    assert folder == tmp_path / "elsewhere"
    assert {row["variant"] for row in read_csv(folder)} == {"fwm_hw_ld"}


def test_missing_cells_are_listed_and_never_shown_as_numbers(write):
    write.evaluated(write.run("baseline"), {"target": {"linear": 0.3, "attentive": 0.9}})
    write.evaluated(write.run("fwm_hw_ld"), {"target": {"linear": 0.4}})
    write.run("motion_guided", state="running")
    report = write_report([write.root / "demo"])
    assert len(read_csv(report.folder)) == 3
    lines = (report.folder / "results.txt").read_text().splitlines()
    assert next(line for line in lines if "fwm_hw_ld" in line).count("missing") == 1
    assert next(line for line in lines if "motion_guided" in line).count("missing") == 2
    expected = [
        ("motion_guided", "running", "500"),
        ("fwm_hw_ld", "target", "attentive"),
        ("motion_guided", "target", "linear"),
        ("motion_guided", "target", "attentive"),
        ("random_init", "linear"),
        ("random_init", "attentive"),
    ]
    assert len(report.data.gaps) == len(expected)
    for line, parts in zip(report.data.gaps, expected, strict=True):
        assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("eval/motion8.standard.json", "{}"),
        ("eval/motion8.standard.npz", "not an archive"),
        ("state.json", "{}"),
        ("metrics.jsonl", '{"step": 0}\n'),
        ("config.yaml", "a: &a [*a]"),
    ],
)
def test_a_damaged_file_is_named_and_the_other_runs_are_reported(study, name, content):
    whole = write_report([study]).data
    path = study / "quickstart/baseline/seed-0" / name
    path.write_text(content)
    data = write_report([study]).data
    named = [line for line in data.gaps if str(path.parent if name == "config.yaml" else path) in line]
    assert len(named) == 1 and "\n" not in named[0]
    others = [row for row in whole.rows if row.variant not in ("baseline", "random_init")]
    assert others and set(others) <= set(data.rows)


@pytest.mark.parametrize("content", ["a: &a [*a]", "study: [", "study: demo\nregimes: [x]\nvariants: [y]\n"])
def test_a_damaged_study_file_is_named_and_the_runs_are_reported(study, content):
    rows = write_report([study]).data.rows
    (study / "study.yaml").write_text(content)
    data = write_report([study]).data
    assert set(data.rows) == set(rows)
    assert len([line for line in data.gaps if str(study / "study.yaml") in line]) == 1


def test_a_report_folder_that_leads_outside_the_study_is_written_only_if_it_is_named(study, tmp_path):
    (tmp_path / "outside").mkdir()
    (study / "report").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="--out"):
        write_report([study])
    assert not [*(tmp_path / "outside").iterdir()]
    write_report([study], study / "report")
    assert (tmp_path / "outside/index.html").exists()


def test_a_torn_last_line_is_not_damage(study):
    path = study / "quickstart/baseline/seed-0/metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 500, "lo')
    assert not any(str(path) in line for line in write_report([study]).data.gaps)


def test_folders_without_runs_or_records_are_refused(tmp_path, write):
    with pytest.raises(InputError, match="train"):
        write_report([tmp_path])
    write.run("baseline")
    with pytest.raises(InputError, match="evaluate"):
        write_report([write.root])
