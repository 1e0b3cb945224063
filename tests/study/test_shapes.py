"""Prices of the shapes of a job: expected values are counted by hand."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config.cluster import find_profile
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.shapes import JobShape, cheapest, shape_prices

HOUR = 3600


@pytest.fixture
def priced(tmp_path, monkeypatch):
    """``priced(seeds, step_seconds, profile, **train)``: prices of runs of one step on nodes with four GPUs."""
    monkeypatch.chdir(tmp_path)

    def make(seeds, step_seconds=HOUR, profile=None, overrides=(), **train):
        study = {
            "study": "s", "regimes": ["ucf101"], "variants": ["baseline"], "seeds": list(range(seeds)),
            "overrides": ["schedule={steps: 1, warmup: 0}", *overrides],
        }  # fmt: skip
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
        node = {"gpus_per_node": 4, "cpus_per_node": 32, "time": 60, **train}
        evaluate = {"cpus_per_node": 1, "time": 5}
        site = {"train": node, "evaluate": evaluate, "max_concurrent_jobs": 2, **(profile or {})}
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
        cells = expand_study(read_config(StudyConfig, [tmp_path / "study.yaml"]), tmp_path / "runs")
        return shape_prices(cells, find_profile(str(tmp_path / "site.yaml")).cluster, step_seconds)

    return make


def table(prices):
    return {(each.shape.cells_per_job, each.shape.gpus_per_cell): (each.hours, each.gpu_hours) for each in prices}


def test_idle_gpus_cost_until_the_last_cell_of_their_node_ends(priced):
    """Five runs of 1, 2 and 4 hours; two nodes of four GPUs."""
    prices = priced(5)
    assert table(prices) == {(4, 1): (4, 4 * (4 + 4)), (2, 2): (2, 4 * (4 + 2)), (1, 4): (1, 4 * (3 + 2))}
    assert {each.shape.gpus_per_cell: each.days * 24 for each in prices} == {1: 4, 2: 4, 4: 3}
    assert cheapest(prices).shape == JobShape(1, 4)
    assert table(priced(8))[4, 1] == (4, 32)


def test_few_clips_per_gpu_are_cheaper_on_one_gpu(priced):
    """At 4 clips the launches of the kernels decide: more GPUs do not make a run shorter."""
    fast = {"gpu_tflops": 900}
    prices = priced(8, None, fast, overrides=["engine.batch_size=4"])
    hours = {(each.shape.gpus_per_cell, each.shape.cells_per_gpu): each.gpu_hours for each in prices}
    assert hours[4, 1] > 3 * hours[1, 1] > 0 and cheapest(prices).shape.gpus_per_cell == 1
    assert hours.keys() == {(1, 2), (1, 1), (2, 1), (4, 1)}


def test_a_measured_time_is_kept_for_the_shape_of_the_profile(priced):
    prices = priced(2, 7 * HOUR, {"gpu_tflops": 300}, cells_per_job=2, gpus_per_cell=1)
    current = next(each for each in prices if each.is_current)
    assert (current.shape, current.hours) == (JobShape(2, 1), pytest.approx(7))
    faster = next(each for each in prices if each.shape == JobShape(1, 4))
    assert 7 / 4 < faster.hours < 7 / 2  # the exchange of gradients takes a part of the gain


def test_shapes_that_cannot_run_say_why(priced):
    refused = {each.shape.gpus_per_cell: each.refused for each in priced(1, overrides=["engine.batch_size=2"])}
    assert "4" in refused[4] and not refused[1] and not refused[2]
    refused = {each.shape.gpus_per_cell: each.refused for each in priced(1, profile={"gpu_memory_gib": 5})}
    assert "GiB" in refused[1] and not refused[4]
    assert priced(1, None) == [] and priced(1, gpus_per_node=1) == []


def test_the_plan_names_the_cheapest_shape_and_its_keys(priced, tmp_path):
    priced(8, None, {"gpu_tflops": 900}, overrides=["engine.batch_size=16"])
    plan = ["study", "plan", "study.yaml", "--cluster", "site.yaml"]
    shown = CliRunner().invoke(app, plan).stdout
    assert "4 x 1 GPU" in shown and "cheapest: train: {cells_per_job: 4, gpus_per_cell: 1}" in shown
    assert "no two cells read the same clips" in shown
    shapes = json.loads(CliRunner().invoke(app, [*plan, "--json"]).stdout)["shapes"]
    assert [each["shape"]["gpus_per_cell"] for each in shapes if each["cheapest"]] == [1]
    assert "cells in a job" not in CliRunner().invoke(app, ["study", "plan", "study.yaml"]).stdout
