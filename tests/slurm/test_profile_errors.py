"""Errors of sbatch are shown with file, line and key of the profile."""

import re

import pytest


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"partition": "fast"}, r"profile\.yaml:\d+: partition: .*[Ii]nvalid partition"),
        ({"train": {"cpus_per_node": 1, "time": "3-00:00:00"}}, r"profile\.yaml:\d+: train\.time: .*time limit"),
        (
            {"train": {"cpus_per_node": 4, "gpus_per_node": 4, "time": 5}},
            r"profile\.yaml:\d+: train\.gpus_per_node: .*node",
        ),
    ],
)
def test_an_sbatch_error_names_the_profile_key(cluster, grid, profile, message):
    study = grid("baseline", **profile)
    before = job_ids(cluster)
    check(study.attempt("submit"), message)
    assert job_ids(cluster) <= before


def test_without_sbatch_the_local_executor_is_suggested(grid, monkeypatch, tmp_path):
    study = grid("baseline")
    monkeypatch.setenv("PATH", str(tmp_path))
    check(study.attempt("submit"), "--cluster local")


def job_ids(cluster):
    """Jobs in the queue; those of an earlier test may still be completing."""
    return set(cluster.slurm("squeue", "--noheader", "--format=%A"))


def check(result, message):
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert re.search(message, result.stderr), result.stderr
