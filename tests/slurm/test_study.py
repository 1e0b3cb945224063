"""A grid on Slurm: submitted with one command, evaluated, reported; what fails fails alone."""

import json
import os
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.timeout(900)  # on a machine that is busy otherwise
VARIANTS = ("baseline", "ld")
REGIMES = ("tiny", "other")


@pytest.fixture
def judged_grid(grid, motion_shards, tmp_path):
    """``grid``, with an evaluation of each cell."""
    protocol = {
        "train": str(motion_shards / "train"),
        "test": str(motion_shards / "test"),
        "clip": {"sampling": "leading", "frames": 8, "stride": 2, "size": 32},
        "probes": {"linear": {"kind": "linear", "pooling": "mean", "updates": 20}},
        "probe_seeds": [0],
        "batch_size": 8,
    }
    benchmark = {"name": "motion8", "title": "Directions", "classes": 8, "protocols": {"standard": protocol}}
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(benchmark))
    evaluation = {"benchmark": "benchmark.yaml", "weights": ["target"]}
    return lambda *variants, **more: grid(*variants, evaluations=[evaluation], **more)


def test_thirty_six_cells_are_queued_in_less_than_five_seconds_and_cancelled(cluster, judged_grid, tmp_path):
    variants = [f"variant-{number:02}" for number in range(18)]
    for variant in variants:
        (tmp_path / f"{variant}.yaml").write_text(f"variant: {variant}")
    study = judged_grid(*(f"{variant}.yaml" for variant in variants), regimes=REGIMES, sbatch={"hold": True})
    submit = [sys.executable, "-m", "hpc_jepa", "study", "submit", "study.yaml", "--cluster", "profile.yaml"]
    before = os.times()
    subprocess.run(submit, check=True, timeout=60)
    after = os.times()
    # Not by the clock on the wall: other work on this machine is no fault of the command.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 5
    assert len(cluster.slurm("squeue", "--noheader", "--array")) == 36 + 36 + 1
    assert len(study.status()) == 36

    study.call("cancel")
    assert cluster.slurm("squeue", "--noheader", "--array") == []


def test_a_grid_is_trained_evaluated_and_reported_though_the_controller_dies(cluster, judged_grid, eventually):
    study = judged_grid(*VARIANTS, regimes=REGIMES, max_concurrent_jobs=2)
    study.call("submit")
    # A controller forgets what happened in the seconds before its death; by then the queue must be older.
    eventually(lambda: any(study.run(f"{regime}/baseline").is_done() for regime in REGIMES))
    cluster.control("kill-controller")
    assert study.states() & {"trained", "running"}  # what the files of the runs say
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


def test_a_cell_that_breaks_fails_alone_and_after_the_repair_alone_runs_again(grid, tmp_path, eventually):
    broken = tmp_path / "broken.yaml"
    broken.write_text("{variant: broken, schedule: {lr: 1.0e+30, warmup: 0}}")
    study = grid("broken.yaml", "baseline")
    study.call("submit")
    eventually(lambda: study.states() == {"failed", "done"})
    failed = study.cell("tiny/broken")
    assert "not finite" in failed["note"]
    assert "not finite" in (tmp_path / failed["log"]).read_text()
    before, healthy = study.job("tiny/broken"), study.job()

    broken.write_text("{variant: broken}")
    study.call("resume")
    assert study.job("tiny/broken") != before
    assert study.job() == healthy
    eventually(study.done)
