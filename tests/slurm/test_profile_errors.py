"""What Slurm refuses is shown in its own words, with the file and the key of the profile that they are about."""

import re

import pytest


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"partition": "fast"}, r"profile\.yaml:\d+: partition: .*[Ii]nvalid partition"),
        ({"train": {"cpus_per_node": 1, "time": "3-00:00:00"}}, r"profile\.yaml:\d+: train\.time: .*time limit"),
        (
            {"train": {"cpus_per_node": 4, "gpus_per_node": 4, "time": 5}},
            r"profile\.yaml:\d+: train\.gpus_per_node: .*node",
        ),
    ],
)
def test_what_sbatch_refuses_is_explained(cluster, grid, profile, words):
    study = grid("baseline", **profile)
    check(study.attempt("submit"), words)
    assert cluster.slurm("squeue", "--noheader") == []


def test_without_sbatch_the_way_out_is_named(grid, monkeypatch, tmp_path):
    study = grid("baseline")
    monkeypatch.setenv("PATH", str(tmp_path))
    check(study.attempt("submit"), "not on the PATH; .* --cluster local")


def check(result, words):
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert re.search(words, result.stderr), result.stderr
