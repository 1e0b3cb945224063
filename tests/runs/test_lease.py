"""A run folder is written by one copy of a run, and by the newest one where a scheduler has started two."""

import os
import subprocess
import sys
import time

import pytest

from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.runs import lease as leases
from hpc_jepa.runs.lease import LeaseHolder, LeaseLostError, hold_lease, lease_path, read_holder
from hpc_jepa.runs.state import read_starts, record_start


@pytest.fixture
def as_job(monkeypatch):
    """``as_job(id, restart)`` makes this process one of a Slurm job."""

    def become(job, restart=0):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))

    return become


def left_behind(run, **changes):
    """A lease whose holder did not give it back."""
    facts = {"token": "other", "host": "elsewhere", "process": 1, "job": None, "restart": 0, **changes}
    lease_path(run).write_text(LeaseHolder(**facts).model_dump_json())


def test_a_copy_that_slurm_started_again_takes_the_lease_and_the_older_one_stops(tmp_path, as_job):
    as_job("7")
    with hold_lease(tmp_path) as older:
        older.check()
        as_job("7", restart=1)
        with hold_lease(tmp_path) as newer:
            newer.check()
            with pytest.raises(LeaseLostError, match=r"job 7, restart 1, process .* has taken over"):
                older.check()
        assert read_holder(tmp_path) is None


def test_another_job_is_refused_while_the_first_one_lives(tmp_path, as_job):
    as_job("7")
    with hold_lease(tmp_path):
        as_job("8")
        with pytest.raises(InputError, match="is writing here"), hold_lease(tmp_path):
            pass


def test_an_older_copy_does_not_take_back_what_it_lost(tmp_path, as_job):
    as_job("7", restart=1)
    with hold_lease(tmp_path) as newer:
        as_job("7", restart=0)
        with pytest.raises(InputError, match="is writing here"), hold_lease(tmp_path):
            pass
        newer.check()


def test_a_lease_that_a_dead_process_of_this_machine_left_is_free(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    left_behind(tmp_path, host=os.uname().nodename, process=process.pid)
    with hold_lease(tmp_path) as lease:
        lease.check()


def test_a_lease_of_another_machine_is_free_once_it_is_silent(tmp_path, monkeypatch):
    left_behind(tmp_path)
    long_ago = time.time() - leases.LEASE_TIMEOUT - 1
    os.utime(lease_path(tmp_path), (long_ago, long_ago))
    with hold_lease(tmp_path) as lease:
        lease.check()


def test_a_lease_of_another_machine_that_beats_is_respected(tmp_path, monkeypatch):
    left_behind(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda seconds: os.utime(lease_path(tmp_path)))
    with pytest.raises(InputError, match="process 1 on elsewhere is training here"), hold_lease(tmp_path):
        pass


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_INTERVAL", 0.01)
    with hold_lease(tmp_path):
        os.utime(lease_path(tmp_path), (0, 0))
        deadline = time.monotonic() + 10
        while lease_path(tmp_path).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease_path(tmp_path).stat().st_mtime > 0


def test_a_job_may_start_as_often_as_it_likes_while_steps_advance_and_three_times_without(tmp_path, as_job):
    as_job("7")
    for step in range(0, 100, 10):
        record_start(tmp_path, step)
    for _ in range(2):
        record_start(tmp_path, 90)
    with pytest.raises(HpcJepaError, match="job 7 started 3 times after step 90 and saved nothing further"):
        record_start(tmp_path, 90)
    as_job("8")
    record_start(tmp_path, 90)
    assert len(read_starts(tmp_path)) == 13


def test_by_hand_a_run_may_start_without_end(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for _ in range(5):
        record_start(tmp_path, 0)
