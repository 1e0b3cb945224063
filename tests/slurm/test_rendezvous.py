"""The tasks of a step meet at an address of their node, beside older copies of their job."""

import sys
from pathlib import Path

WORKER = Path(__file__).parents[1] / "training" / "workers" / "slurm_store.py"


def met(lines):
    """Addresses where each rank that has met the others listens."""
    return {words[1]: words[2:] for words in map(str.split, lines) if words[:1] == ["met"]}


def test_tasks_of_two_nodes_meet_at_the_address_of_the_first(cluster, tmp_path):
    command = ["srun", "--nodes=2", "--ntasks=2", sys.executable, WORKER, tmp_path, "300"]
    found = met(cluster.slurm(*map(str, command)))
    assert found.keys() == {"0", "1"}
    assert found["1"] == []
    assert found["0"] in ([f"127.0.0.{number}"] for number in (1, 2, 3, 4))
    assert list(tmp_path.glob(".rendezvous-*")) == []


def test_a_requeued_job_meets_beside_an_older_copy_that_still_waits(cluster, tmp_path, eventually):
    """Rank 1 of the first start never comes, so its rank 0 still waits on the lost node."""
    task = f'[ "$SLURM_PROCID-$SLURM_RESTART_COUNT" = 1- ] && exec sleep 3000; exec {sys.executable} {WORKER} . 3000'
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\nsrun --unbuffered sh -c '{task}'\n")
    options = ("--requeue", "--nodes=1", "--ntasks=2", "--output=output", "--open-mode=append", f"--chdir={tmp_path}")
    job = cluster.slurm("sbatch", "--parsable", *options, str(script))[0]
    (older,) = eventually(lambda: list(tmp_path.glob(f".rendezvous-*-{job}-0-*")))
    node = cluster.node_of(job)
    cluster.control("kill-slurmd", node)
    copy = cluster.processes_on(node)

    eventually(lambda: len(met((tmp_path / "output").read_text().splitlines())) == 2)
    assert set(cluster.processes_on(node)) & set(copy)
    assert not older.exists()
    cluster.control("start-node", node)  # kill-node ends the older copy only with its daemon
    cluster.control("kill-node", node)
    assert cluster.processes_on(node) == []
