"""Packed jobs: several cells at a time, each a Slurm step, on nodes that are given out whole."""

import json

import pytest
import yaml

WHOLE_NODES = {"exclusive": True}
STEPS = 60


def lines_of(study, kind):
    """Lines of the list of jobs."""
    lines = (study.folder / "runs/demo/jobs.jsonl").read_text().splitlines()
    return [job for job in map(json.loads, lines) if job["kind"] == kind]


def takers(study, kind):
    """The jobs that ended the tasks of a kind."""
    (pool,) = {job["pool"] for job in lines_of(study, kind)}
    claims = [json.loads(path.read_text()) for path in (study.folder / pool).glob("*.*.json")]
    return [claim["job"] for claim in claims if claim["code"] == 0]


@pytest.mark.slow
def test_cells_end_as_alone_although_one_is_broken_a_job_is_preempted_and_a_node_is_killed(
    cluster, grid, uninterrupted, tmp_path, eventually
):
    (tmp_path / "broken.yaml").write_text("{variant: broken, schedule: {lr: 1.0e+30, warmup: 0}}")
    more = [{"objective": "baseline", "seeds": [0, 1, 2, 3]}, {"objective": "ld", "seeds": [0, 1, 2]}]
    packed = {"cpus_per_node": 4, "time": 10, "cells_per_job": 4}
    study = grid(
        {"objective": "broken.yaml", "seeds": [0]}, *more, steps=STEPS, every=20, partition="low", sbatch=WHOLE_NODES,
        train=packed,
    )  # fmt: skip
    study.call("submit")
    jobs = sorted({job["job"] for job in lines_of(study, "train")})
    assert len(jobs) == 2 and len(study.status()) == 8
    runs = [study.run(name, seed) for name in ("tiny/baseline", "tiny/ld") for seed in (0, 1, 2)]
    eventually(lambda: all(run.steps() > 2 for run in runs))
    assert len({run.holder()["job"] for run in runs}) == 2

    nodes = [cluster.node_of(job) for job in jobs]
    cluster.control("kill-node", nodes[0])
    urgent = ["--partition=high", f"--nodelist={nodes[1]}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    cluster.slurm("sbatch", *urgent)
    eventually(lambda: study.states() == {"failed", "done"})

    failed = [name for name, cell in study.status().items() if cell["state"] == "failed"]
    assert failed == ["tiny/broken/seed-0"] and "non-finite" in study.cell("tiny/broken")["note"]
    assert all(study.run(seed=seed).equals(uninterrupted(STEPS, seed)) for seed in (0, 2))
    assert max(len(run.started_at()) for run in runs) == 2
    assert not any("srun" in (run.folder / "log/train.log").read_text() for run in runs)
    assert sorted({job["job"] for job in lines_of(study, "train")}) == jobs


@pytest.mark.slow
def test_a_job_takes_the_cells_of_the_next_one_and_two_evaluations_share_a_pass(
    cluster, grid, tiny_benchmark, tmp_path, eventually
):
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(tiny_benchmark))
    study = grid(
        "baseline", "ld", seeds=[0, 1], steps=2, max_concurrent_jobs=1,
        evaluations=[{"benchmark": "benchmark.yaml", "weights": ["target"]}],
        train={"cpus_per_node": 2, "time": 10, "cells_per_job": 2},
        evaluate={"cpus_per_node": 2, "time": 10, "cells_per_pass": 2},
    )  # fmt: skip
    study.call("submit")
    submitted = {kind: {job["job"] for job in lines_of(study, kind)} for kind in ("train", "evaluate")}
    assert [len(jobs) for jobs in submitted.values()] == [2, 2]
    assert len(cluster.slurm("squeue", "--noheader", "--array")) == 5
    assert study.states() == {"queued"}
    eventually(study.done)
    eventually((study.folder / "runs/demo/report/index.html").exists)  # after the jobs have ended
    for kind in ("train", "evaluate"):
        assert len(takers(study, kind)) == 4 and {*takers(study, kind)} <= submitted[kind]
    assert {job[-2:] for job in takers(study, "train")} == {"_0"}
    logs = {path: path.read_text() for path in (study.folder / "runs/demo").glob("*/*/*/log/evaluate.log")}
    named = [path for path in logs if any(str(path.relative_to(study.folder)) in text for text in logs.values())]
    assert len(logs) == 4 and len(named) == 2  # the logs of the runs whose command evaluates the others too
    study.call("submit")
    assert {job["job"] for job in lines_of(study, "train")} == submitted["train"]
