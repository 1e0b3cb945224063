"""The pages for contributors work when they are followed to the letter."""

import pytest


@pytest.mark.slow
def test_adding_a_corruption(follow):
    follow("adding_a_corruption.md")


@pytest.mark.slow
def test_adding_a_cluster(follow, motion_shards):
    (plan,) = follow("adding_a_cluster.md", **{"shards/trial": motion_shards})
    assert "runs/trial" in plan
