"""The trial cluster itself: what can be killed can come back, and nothing is left behind."""

import pytest


def test_a_killed_node_takes_its_steps_along_and_comes_back(cluster):
    job = cluster.slurm("sbatch", "--parsable", "--output=/dev/null", "--wrap=srun sleep 300")[0]
    node = cluster.node_of(job)
    assert cluster.processes_on(node)
    cluster.control("kill-node", node)
    assert cluster.processes_on(node) == []
    cluster.control("start-node", node)
    cluster.slurm("scancel", job)


def test_two_clusters_do_not_know_of_each_other(cluster, another_cluster):
    job = another_cluster.slurm("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 300")[0]
    node = another_cluster.node_of(job)
    another_cluster.control("down")
    assert not another_cluster.configuration.parents[1].exists()
    assert another_cluster.processes_on(node) == []
    assert "is UP" in cluster.control("status")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("kill-node", "node7"), "node 'node7': there are 127.0.0.1 127.0.0.2 127.0.0.3 127.0.0.4"),
        (("start-node",), "node '': there are"),
        (("up",), "exists; take that cluster down"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(cluster, words, complaint):
    done = cluster.attempt(*words)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert complaint in done.stderr
