"""Jobs that are preempted, killed, orphaned or out of time resume, and end like an uninterrupted run."""

import json
import os
import signal

STEPS = 200


def test_a_preempted_run_saves_and_resumes(cluster, grid, uninterrupted, eventually):
    study = grid("baseline", steps=STEPS, every=10 * STEPS, partition="low")
    study.call("submit")
    eventually(lambda: study.run().steps() > 20)
    job = study.job()
    cluster.slurm("sbatch", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    eventually(study.done)
    assert (study.job(), study.cell()["resumptions"]) == (job, 1)
    assert study.run().started_at()[1] > 20
    assert study.run().equals(uninterrupted(STEPS))


def test_runs_of_dead_nodes_resume_from_their_last_checkpoint_and_never_beside_a_live_copy(
    cluster, grid, uninterrupted, eventually
):
    whole_node = {"cpus_per_node": 4, "time": 10}
    study = grid("baseline", steps=STEPS, every=20, seeds=[0, 1], train=whole_node)
    study.call("submit")
    runs = [study.run(seed=0), study.run(seed=1)]
    jobs = [study.job(seed=0), study.job(seed=1)]
    eventually(lambda: all(run.steps() > 50 for run in runs))

    cluster.control("kill-node", cluster.node_of(jobs[0]))
    hidden = cluster.node_of(jobs[1])
    cluster.control("kill-slurmd", hidden)
    copy = cluster.processes_on(hidden)
    for process in copy:
        os.kill(process, signal.SIGSTOP)
    checkpoints = [run.checkpoint() for run in runs]
    eventually(lambda: len(runs[1].started_at()) == 2)  # the new copy has read its checkpoint
    for process in copy:
        os.kill(process, signal.SIGCONT)

    eventually(study.done)
    assert [run.started_at() for run in runs] == [[0, step] for step in checkpoints]
    assert "has taken over" in (runs[1].folder / "log/train.log").read_text()
    assert all(run.equals(uninterrupted(STEPS, seed)) for seed, run in enumerate(runs))


def test_a_run_longer_than_its_time_limit_is_requeued_until_it_is_done(grid, uninterrupted, eventually):
    seconds = 45  # of one minute; the stop signal comes after 10 to 40 s, and the start takes some
    steps = int(seconds * uninterrupted(STEPS).speed())
    study = grid("baseline", steps=steps, every=10 * steps, train={"cpus_per_node": 1, "time": 1}, signal_seconds=20)
    study.call("submit")
    eventually(study.done)
    starts = study.run().started_at()
    assert len(starts) > 1
    assert starts == sorted(set(starts))
    assert [metrics[0] for metrics in study.run().metrics()] == list(range(steps))
    lines = (study.folder / "runs/demo/jobs.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("train") == 1
