"""The pages for contributors work when they are followed to the letter."""

import pytest


@pytest.mark.slow
def test_adding_a_corruption(follow):
    follow("adding_a_corruption.md")


@pytest.mark.slow
def test_adding_a_cluster(follow, motion_shards):
    (plan,) = follow("adding_a_cluster.md", **{"shards/trial": motion_shards})
    assert "runs/trial" in plan


@pytest.mark.slow
def test_adding_an_objective(follow):
    shown, tested = follow("adding_an_objective.md")
    assert "max(0, floor" in shown and " passed" in tested
    skipped = [line for line in tested.splitlines() if line.startswith("SKIPPED")]
    assert all("CUDA" in line for line in skipped)


@pytest.mark.slow
def test_using_objectives_in_another_trainer(follow):
    (printed,) = follow("using_objectives.md")
    losses = [float(line.split()[1]) for line in printed.splitlines()]
    assert len(losses) == 30 and sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.slow
def test_adding_a_data_source(follow):
    follow("adding_a_data_source.md")


@pytest.mark.slow
def test_adding_a_probe(follow):
    follow("adding_a_probe.md")
