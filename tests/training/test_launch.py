"""A job stops before its time runs out, and ranks come from Slurm or not at all."""

import os
import re
import subprocess
import sys
import time

import pytest

from hpc_jepa.errors import InputError
from hpc_jepa.training import launch
from hpc_jepa.training.slurm_step import first_host, set_ranks_from_slurm
from hpc_jepa.training.walltime import SAFETY_FACTOR, SHUTDOWN_SECONDS, WallTime


def test_what_no_longer_fits_is_not_begun(monkeypatch):
    now = 1_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    time_left = WallTime(deadline=1_000.0 + SHUTDOWN_SECONDS + SAFETY_FACTOR * (20 + 4) + 20 + 1)
    assert time_left.fits_another(then=4)
    with time_left.timed():
        now += 20
    assert time_left.fits_another(then=4)
    now += 2
    assert not time_left.fits_another(then=4)
    assert time_left.fits_another()


def test_without_a_deadline_everything_fits(monkeypatch):
    for name in ("SLURM_JOB_END_TIME", "HPC_JEPA_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    assert WallTime.from_environment().fits_another(then=1e9)


@pytest.mark.parametrize("name", ["SLURM_JOB_END_TIME", "HPC_JEPA_JOB_END_TIME"])
def test_the_end_of_the_job_is_read_from_its_environment(name, monkeypatch):
    monkeypatch.setenv(name, str(int(time.time()) + 60))
    assert WallTime.from_environment().fits_another()
    assert not WallTime.from_environment().fits_another(then=60)


@pytest.fixture
def step(monkeypatch):
    """``step(**variables)``: the environment of a process in a Slurm job, and nothing of another launcher."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_ID", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "")  # so that what the test sets is taken away afterwards
        monkeypatch.delenv(name)

    def set_variables(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return set_variables


def test_ranks_come_from_slurm(step, monkeypatch):
    step(JOB_ID="40000", STEP_ID="0", STEP_NUM_TASKS="4", PROCID="3", LOCALID="1", STEP_NODELIST="gpu-[07-08,11]")
    set_ranks_from_slurm()
    environment = {name: launch.os.environ[name] for name in launch.LAUNCHER_VARIABLES}
    port = int(environment.pop("MASTER_PORT"))
    assert environment == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu-07"}
    assert 20_000 <= port < 32_000


def test_another_launcher_is_left_alone(step, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    step(JOB_ID="1", STEP_ID="0", STEP_NUM_TASKS="8", PROCID="0", LOCALID="0", STEP_NODELIST="a")
    set_ranks_from_slurm()
    assert (launch.os.environ["RANK"], launch.os.environ["WORLD_SIZE"]) == ("1", "2")


def test_a_job_of_four_processes_is_not_silently_one_of_one(step):
    step(JOB_ID="1", NTASKS="4")
    with pytest.raises(InputError, match="meant for 4 processes, but was started as one; put 'srun' in front"):
        set_ranks_from_slurm()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("node[017-020,031],login", "node017"),
        ("n[1,3]-ib", "n1-ib"),
        ("127.0.0.[1-2]", "127.0.0.1"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


def test_processes_that_do_not_meet_say_where_and_how_long_they_waited():
    """In a process of its own: a group, once joined, lasts as long as its process."""
    lines = [
        "from datetime import timedelta",
        "from hpc_jepa.training import launch",
        "launch.RENDEZVOUS_TIMEOUT = timedelta(seconds=1)",
        "launch.join_process_group()",
    ]
    coordinates = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    finished = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={**os.environ, **coordinates, "MASTER_PORT": "29871"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    words = r"HpcJepaError: rank 0 of 2: not all processes met at 127.0.0.1:29871 within 1 s .*1/2"
    assert re.search(words, finished.stderr), finished.stderr[-2000:]
