"""Runs of several nodes: ranks from Slurm, DeepSpeed over gloo."""


def test_two_nodes_of_two_tasks_equal_one_node_of_four(cluster, grid, eventually):
    finished = []
    for nodes, tasks in ((2, 2), (1, 4)):
        study = grid(
            "baseline", steps=3, train={"nodes": nodes, "tasks_per_node": tasks, "cpus_per_node": tasks, "time": 10}
        )
        study.call("submit", "--runs", f"nodes-{nodes}")
        finished.append(study.run(runs=f"nodes-{nodes}"))
    eventually(lambda: all(run.is_done() for run in finished))
    apart, together = finished
    assert len(apart.weights()) > 1  # several ranks wrote their files
    assert apart.equals(together)
