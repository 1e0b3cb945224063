"""Ranks come from the launcher or from Slurm, or the run is refused."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import deepspeed
import pytest
import torch

from hpc_jepa.errors import InputError
from hpc_jepa.training import launch
from hpc_jepa.training.launch import check_launcher_variables, collective_timeout, set_ranks_from_slurm
from tests.waiting import run


@pytest.fixture
def step(monkeypatch):
    """``step(**variables)``: the environment of a process in a Slurm job, without variables of another launcher."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_ID", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "")  # so that the test's own settings are undone afterwards
        monkeypatch.delenv(name)

    def set_variables(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return set_variables


def test_ranks_come_from_slurm_and_no_address_does(step, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "b")  # of a job script that can also start torchrun
    step(JOB_ID="40000", STEP_ID="0", STEP_NUM_TASKS="4", PROCID="3", LOCALID="1", STEP_NODELIST="gpu-[07-08,11]")
    set_ranks_from_slurm()
    found = {name: launch.os.environ.get(name) for name in launch.LAUNCHER_VARIABLES}
    assert found == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": None, "MASTER_PORT": None}
    check_launcher_variables()


def test_a_task_whose_only_gpu_has_index_0_meets_the_others(step, monkeypatch):
    """``srun --gpus-per-task=1`` with cgroups: LOCAL_RANK becomes the index of the device before the rendezvous."""
    joined = []
    monkeypatch.setattr(launch, "select_device", lambda setting: torch.device("cuda", 0))
    monkeypatch.setattr(launch, "slurm_store", lambda environment, folder, timeout: folder)
    monkeypatch.setattr(launch.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(launch.dist, "init_process_group", lambda backend, **group: joined.append((backend, group)))
    monkeypatch.setattr(launch.atexit, "register", lambda function: None)
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **settings: None)
    step(JOB_ID="1", STEP_ID="0", STEP_NUM_TASKS="2", PROCID="1", LOCALID="1", STEP_NODELIST="a")
    assert launch.join_process_group(folder=Path("run")) == torch.device("cuda", 0)
    assert launch.os.environ["LOCAL_RANK"] == "0"
    assert joined == [("nccl", {"store": Path("run"), "rank": 1, "world_size": 2, "timeout": None})]
    check_launcher_variables()


def test_variables_of_another_launcher_take_precedence(step, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    step(JOB_ID="1", STEP_ID="0", STEP_NUM_TASKS="8", PROCID="0", LOCALID="0", STEP_NODELIST="a")
    set_ranks_from_slurm()
    assert (launch.os.environ["RANK"], launch.os.environ["WORLD_SIZE"]) == ("1", "2")


def test_a_job_of_four_tasks_does_not_train_as_one_process(step):
    step(JOB_ID="1", NTASKS="4")
    with pytest.raises(InputError, match="srun"):
        set_ranks_from_slurm()


def test_a_collective_ends_later_than_the_watchdog():
    """NCCL's own limit of ten minutes would end the process before the stacks are printed."""
    assert collective_timeout(1800.0) > timedelta(seconds=1800)
    assert collective_timeout(0) is None


def test_the_process_group_has_the_limit_of_the_run():
    lines = [
        "from hpc_jepa.training.launch import collective_timeout, join_process_group",
        "import torch.distributed as dist",
        "device = join_process_group('cpu', collective_timeout(60.0))",
        "print(dist.distributed_c10d._get_default_group()._get_backend(device).options._timeout.total_seconds())",
    ]
    environment = {name: value for name, value in os.environ.items() if name not in launch.LAUNCHER_VARIABLES}
    finished = run([sys.executable, "-c", "\n".join(lines)], env=environment)
    assert finished.stdout.splitlines()[-1:] == ["360.0"], finished.stderr


def test_a_rendezvous_that_times_out_names_rank_and_address():
    """In its own process, because a process group lasts as long as its process."""
    lines = [
        "from datetime import timedelta",
        "from hpc_jepa.training import launch",
        "launch.RENDEZVOUS_TIMEOUT = timedelta(seconds=1)",
        "launch.join_process_group()",
    ]
    coordinates = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    finished = run(
        [sys.executable, "-c", "\n".join(lines)],
        env={**os.environ, **coordinates, "MASTER_PORT": "29871"},
    )
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("hpc_jepa.errors.HpcJepaError: rank 0 of 2: ")
    assert "127.0.0.1:29871" in last and "1/2" in last
