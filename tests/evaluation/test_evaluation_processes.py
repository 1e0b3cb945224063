"""Several processes, of torchrun or of srun, share the work and write the same record as one."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation import evaluator, record
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.evaluation.record import FewShotRecord, RobustnessRecord
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.launch import LAUNCHER_VARIABLES

WORKER = Path(__file__).parent / "workers" / "evaluate.py"


def test_three_processes_write_the_record_of_one(run_folder, benchmark, cut_shards, launch, tmp_path):
    values = benchmark.model_dump()
    values["protocols"]["standard"] |= {
        "train": cut_shards / "True" / "train",
        "test": cut_shards / "True" / "test",
        "validation": 0.4,
        "probes": {"linear": {"kind": "linear", "pooling": "mean", "updates": 20}},
        "few_shot": {"shots": [1], "draws": 2, "episodes": 3, "episode_shots": [1], "ways": 2, "queries": 1},
        "robustness": {"corruptions": ["reversal", "noise"]},
        "feature_precision": "fp32",
    }
    wanted = BenchmarkConfig.model_validate(values)
    (tmp_path / "tiny8.yaml").write_text(loading.dump_config(wanted))
    shared = tmp_path / "shared"
    shutil.copytree(run_folder, shared)
    launch(WORKER, shared, tmp_path / "tiny8.yaml", processes=3)
    kinds = {"probe": record.ProbeRecord, "few_shot": FewShotRecord, "robustness": RobustnessRecord}
    for task, kind in kinds.items():
        alone = evaluate(run_folder, wanted, "standard", ["target", "random_init"], task=task)
        path = RunDir(shared).record_file("tiny8", "standard", task)
        together = record.read_record(kind, path)
        ours = record.read_predictions(RunDir(run_folder).record_file("tiny8", "standard", task), alone)
        theirs = record.read_predictions(path, together)
        assert ours.keys() == theirs.keys() and together.clusters == alone.clusters == 8
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])
        assert together.results == alone.results
    assert not list(shared.glob(".features-*"))


STEP = {"SLURM_JOB_ID": "40", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_NTASKS": "2"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "b", "MASTER_PORT": "29500"}
LAUNCHES = {
    "no launcher": ({}, None),
    "one task": (STEP | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
    "second of two tasks": (
        STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}, ("1", "2", None),
    ),
    "second of two tasks of a script for torchrun": (
        STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "MASTER_ADDR": "b"},
        ("1", "2", None),
    ),
    "torchrun": (TORCHRUN, ("3", "4", "b")),
    "torchrun in each of two tasks": (
        STEP | TORCHRUN | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}, ("3", "4", "b"),
    ),
}  # fmt: skip


@pytest.fixture
def groups(monkeypatch):
    """Rank, world size and address of each process group; none is really created."""
    for name in [*os.environ]:
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    for name in LAUNCHER_VARIABLES:
        monkeypatch.setenv(name, "")  # so that what the code sets is undone afterwards
        monkeypatch.delenv(name)
    created = []

    def join(backend, timeout, folder):
        created.append(tuple(os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")))

    monkeypatch.setattr(evaluator, "init_from_launcher", join)
    monkeypatch.setattr(evaluator, "open_run", RunDir)  # the folder is empty
    monkeypatch.setattr(evaluator.dist, "barrier", lambda: created.append("left together"))
    monkeypatch.setattr(evaluator.dist, "destroy_process_group", lambda: None)
    return created


@pytest.mark.parametrize(("environment", "group"), LAUNCHES.values(), ids=LAUNCHES)
def test_the_processes_of_a_launcher_join(environment, group, groups, monkeypatch, tmp_path):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with evaluator.process_group(tmp_path):
        assert groups == ([group] if group else [])
    assert groups == ([group, "left together"] if group else [])


def test_a_job_of_two_tasks_is_not_evaluated_as_one_process(groups, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "40")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(InputError, match="srun"), evaluator.process_group(tmp_path):
        pass
