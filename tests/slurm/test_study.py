"""A study on Slurm: submission, evaluation, report, cancellation, and recovery of failed cells."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

VARIANTS = ("baseline", "ld")
REGIMES = ("tiny", "other")


@pytest.fixture
def evaluated_grid(grid, tiny_benchmark, tmp_path):
    """``grid``, with an evaluation of each cell."""
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(tiny_benchmark))
    evaluation = {"benchmark": "benchmark.yaml", "weights": ["target"]}
    return lambda *variants, **more: grid(*variants, evaluations=[evaluation], **more)


def test_36_cells_are_three_submissions_and_cancelled(cluster, evaluated_grid, tmp_path):
    variants = [f"variant-{number:02}" for number in range(18)]
    for variant in variants:
        (tmp_path / f"{variant}.yaml").write_text(f"variant: {variant}")
    study = evaluated_grid(*(f"{variant}.yaml" for variant in variants), regimes=REGIMES, sbatch={"hold": True})
    submit = [sys.executable, "-m", "hpc_jepa", "study", "submit", "study.yaml", "--cluster", "profile.yaml"]
    subprocess.run(submit, check=True)
    assert len(cluster.slurm("squeue", "--noheader")) == 3  # arrays: the time does not grow with the cells
    assert len(cluster.slurm("squeue", "--noheader", "--array")) == 36 + 36 + 1
    assert len(study.status()) == 36

    study.call("cancel")
    assert cluster.slurm("squeue", "--noheader", "--array") == []


def test_a_study_is_trained_evaluated_and_reported_although_the_controller_dies(cluster, evaluated_grid, eventually):
    study = evaluated_grid(*VARIANTS, regimes=REGIMES, max_concurrent_jobs=2)
    study.call("submit")
    eventually(lambda: any(study.run(f"{regime}/baseline").is_done() for regime in REGIMES))
    eventually(lambda: cluster.has_saved_jobs(study.folder / "runs/demo/jobs.jsonl"))
    cluster.control("kill-controller")
    assert study.states() & {"trained", "running"}  # from the files of the runs
    cluster.control("start-controller")

    eventually(study.done)
    for regime in REGIMES:
        for variant in VARIANTS:
            folder = study.run(f"{regime}/{variant}").folder
            record = json.loads((folder / "eval/motion8.standard.json").read_text())
            assert record["run"]["step"] == 4
    eventually((study.folder / "runs/demo/report/index.html").exists)
    jobs = (study.folder / "runs/demo/jobs.jsonl").read_text()
    study.call("submit")
    assert (study.folder / "runs/demo/jobs.jsonl").read_text() == jobs


def test_further_tasks_are_evaluated_by_the_jobs_of_the_cells_and_are_rows_of_the_results(
    grid, tiny_benchmark, tmp_path, eventually
):
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(tiny_benchmark))
    shots = ["few_shot.shots=[1, 2]", "few_shot.draws=2", "few_shot.episodes=2", "few_shot.episode_shots=[]"]
    settings = {"few_shot": shots, "robustness": ["robustness.corruptions=[reversal]"]}
    tasks = [{"task": name, "overrides": overrides} for name, overrides in settings.items()]
    evaluations = [{"benchmark": "benchmark.yaml", "weights": ["target"], **task} for task in ({}, *tasks)]
    study = grid(*VARIANTS, steps=2, evaluations=evaluations)
    study.call("submit")
    eventually(study.done)
    eventually((study.folder / "runs/demo/report/index.html").exists)

    assert all(study.job(f"tiny/{variant}", kind="evaluate") for variant in VARIANTS)
    for cell in study.status().values():
        done = {(each["task"], each["protocol"]): each["done"] for each in cell["evaluations"]}
        assert done == {(task, "standard"): True for task in ("probe", *settings)}
    with (study.folder / "runs/demo/report/results.csv").open(newline="") as file:
        rows = {(row["variant"], row["task"], row["condition"]): float(row["value"]) for row in csv.DictReader(file)}
    for variant in VARIANTS:
        answers = {}
        for task in settings:
            with np.load(study.run(f"tiny/{variant}").folder / f"eval/{task}/motion8.standard.npz") as found:
                answers |= {name: 100 * (found[name] == found["labels"]).mean() for name in found}
        expected = {
            ("few_shot", "1 shot"): answers["target.shots-1"],
            ("few_shot", "2 shots"): answers["target.shots-2"],
            ("robustness", "clean"): answers["target.linear.clean.0"],
            ("robustness", "reversal, severity 1"): answers["target.linear.reversal.1"],
            ("robustness", "mean over corruptions"): answers["target.linear.reversal.1"],
        }
        found = {key[1:]: value for key, value in rows.items() if key[0] == variant and key[1] != "probe"}
        assert found == pytest.approx(expected, abs=0.01)


def test_a_run_that_two_studies_list_is_trained_once_by_the_job_of_either(evaluated_grid, tmp_path, eventually):
    study = evaluated_grid("baseline", sbatch={"hold": True})
    other = yaml.safe_load((tmp_path / "study.yaml").read_text())
    other |= {"study": "other", "variants": [*VARIANTS], "seeds": [0, 1], "reuse": ["demo"]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    study.call("submit")
    training = study.job()
    study.call("cancel")

    study = evaluated_grid("baseline")
    submit_other = [sys.executable, "-m", "hpc_jepa", "study", "submit", "other.yaml", "--cluster", "profile.yaml"]
    subprocess.run(submit_other, check=True)
    assert study.job() != training  # that of the other study, which trains the run of this one
    training = study.job()
    study.call("submit")
    assert study.job() == training and study.job(kind="evaluate")
    eventually(study.done)
    eventually(lambda: (tmp_path / "runs/other/report/index.html").exists())
    assert study.run().started_at() == [0]
    own = {path.parts[-2:] for path in (tmp_path / "runs/other/tiny").glob("*/*")}
    assert own == {("baseline", "seed-1"), ("ld", "seed-0"), ("ld", "seed-1")}


def test_a_failed_cell_does_not_stop_others_and_is_resubmitted_alone(grid, tmp_path, eventually):
    broken = tmp_path / "broken.yaml"
    broken.write_text("{variant: broken, schedule: {lr: 1.0e+30, warmup: 0}}")
    study = grid("broken.yaml", "baseline")
    study.call("submit")
    eventually(lambda: study.states() == {"failed", "done"})
    failed = study.cell("tiny/broken")
    assert "non-finite" in failed["note"]
    assert "non-finite" in (tmp_path / failed["log"]).read_text()
    before, healthy = study.job("tiny/broken"), study.job()

    broken.write_text("{variant: broken}")
    study.call("resume")
    assert study.job("tiny/broken") != before
    assert study.job() == healthy
    eventually(study.done)


def test_a_sequential_study_goes_on_by_itself_and_by_hand_when_the_job_of_a_look_is_killed(
    cluster, evaluated_grid, eventually
):
    rule = {"looks": [2, 3], "futility": 0}  # eight test clips decide nothing at the first look
    study = evaluated_grid(*VARIANTS, seeds=(0, 1, 2), sequential=rule)
    folder = study.folder / "runs/demo"

    def jobs(kind):
        lines = (folder / "jobs.jsonl").read_text().splitlines()
        return [job for job in map(json.loads, lines) if job["kind"] == kind]

    def looks():
        return [look["look"] for look in json.loads((folder / "looks.json").read_text())["looks"]]

    study.call("submit")
    assert {job["folder"][-6:] for job in jobs("train")} == {"seed-0", "seed-1"}
    study.call("submit")  # everything is in the queue
    assert (len(jobs("train")), len(jobs("look"))) == (4, 1)

    eventually(lambda: len(jobs("look")) == 2)  # submitted by the job of the first look
    cluster.slurm("scancel", jobs("look")[-1]["job"])
    assert looks() == [1]
    eventually(study.done)
    assert len(jobs("train")) == 6
    assert looks() == [1]

    study.call("submit")
    assert looks() == [1, 2]
    assert json.loads(study.call("next", "--json"))["cells"] == []
    assert (len(jobs("train")), len(jobs("evaluate")), len(jobs("look"))) == (6, 6, 2)


def test_a_look_at_a_prefix_submits_the_fresh_seeds_that_decide(evaluated_grid, eventually):
    rule = {"looks": [2], "futility": 0, "prefix": 2}  # stops no variant
    study = evaluated_grid(*VARIANTS, seeds=(0, 1), sequential=rule, confirmation={"seeds": [5, 6]})
    study.call("submit")
    steps = {(variant, seed): 4 if seed >= 5 else 2 for variant in VARIANTS for seed in (0, 1, 5, 6)}
    runs = {cell: study.run(f"tiny/{cell[0]}", cell[1]) for cell in steps}
    eventually(lambda: all(runs[cell].is_done() for cell, count in steps.items() if count == 4))
    eventually(study.done)
    assert {cell: run.steps() for cell, run in runs.items()} == steps


def test_a_phase_waits_for_the_one_before_and_begins_with_its_last_checkpoint(grid, eventually):
    phases = [{"name": "main"}, {"name": "cooldown", "after": "main", "overrides": ["schedule.steps=2"]}]
    study = grid(*VARIANTS, phases=phases)
    study.call("submit")
    eventually(study.done)
    for variant in VARIANTS:
        folder = study.run(f"tiny/{variant}.cooldown").folder
        origin = json.loads((folder / "origin.json").read_text())
        assert (origin["step"], origin["clip_offset"]) == (4, 4) and origin["path"].endswith(f"{variant}.main/seed-0")
    assert len(study.status()) == 4


def test_checkpoints_are_evaluated_beside_the_training_by_a_job_that_may_be_killed(
    cluster, grid, tiny_benchmark, tmp_path, eventually
):
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(tiny_benchmark))
    evaluation = {"benchmark": "benchmark.yaml", "weights": ["target"], "every": 50, "online": True}
    study = grid("baseline", steps=100_000, every=50, evaluations=[evaluation])
    regime = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    regime["checkpoint"]["keep_best"] = {"benchmark": "motion8", "probe": "linear"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(regime))
    run = study.run()

    def evaluated():
        return {int(path.parent.name) for path in run.folder.glob("eval/steps/*/motion8.standard.json")}

    study.call("submit")
    eventually(evaluated)
    first, before = study.job(kind="follow"), evaluated()
    cluster.slurm("scancel", first)
    eventually(lambda: first not in cluster.slurm("squeue", "--noheader", "--format=%i"))
    training = study.job()
    study.call("submit")
    assert (study.job(), study.job(kind="follow") != first) == (training, True)
    eventually(lambda: evaluated() - before)
    assert json.loads((run.folder / "state.json").read_text())["state"] == "running"
    study.call("cancel")
    eventually(lambda: not cluster.slurm("squeue", "--noheader"))
