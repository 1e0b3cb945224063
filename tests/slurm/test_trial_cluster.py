"""The trial cluster itself: killed nodes come back, and no processes stay behind."""

import pytest


def test_a_killed_node_ends_its_job_steps_and_comes_back(cluster):
    job = cluster.slurm("sbatch", "--parsable", "--output=/dev/null", "--wrap=srun sleep 300")[0]
    node = cluster.node_of(job)
    assert cluster.processes_on(node)
    cluster.control("kill-node", node)
    assert cluster.processes_on(node) == []
    cluster.control("start-node", node)
    cluster.slurm("scancel", job)


def test_two_clusters_are_independent(cluster, another_cluster):
    job = another_cluster.slurm("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 300")[0]
    node = another_cluster.node_of(job)
    another_cluster.control("down")
    assert not another_cluster.configuration.parents[1].exists()
    assert another_cluster.processes_on(node) == []
    assert "is UP" in cluster.control("status")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("kill-node", "node7"), "node7"),
        (("start-node",), "127.0.0.1"),
        (("up",), "exists"),
    ],
)
def test_invalid_commands_fail_with_one_line(cluster, arguments, part):
    done = cluster.attempt(*arguments)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert part in done.stderr
