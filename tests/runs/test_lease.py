"""One process writes to a run folder: the newest, if the scheduler has started two copies of a job."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_jepa.errors import DataError, HpcJepaError, InputError
from hpc_jepa.io import retry
from hpc_jepa.runs import lease as leases
from hpc_jepa.runs.lease import LeaseHolder, LeaseLostError, hold_lease, is_expired, read_holder
from hpc_jepa.runs.process_identity import find_process
from hpc_jepa.runs.restarts import MAX_RESTARTS_WITHOUT_PROGRESS, read_starts, record_start
from hpc_jepa.runs.run_dir import RunDir
from tests.waiting import wait_until


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


@pytest.fixture
def as_job(monkeypatch):
    """``as_job(id, restart)`` makes this process one of a Slurm job."""

    def become(job, restart=0):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))

    return become


def left_behind(run, **changes):
    """A lease that its holder did not release."""
    fields = {"token": "other", "host": "elsewhere", "process": 1, "job": None, "restart": 0, **changes}
    run.lease_file.write_text(LeaseHolder(**fields).model_dump_json())


def test_requeued_job_takes_the_lease_and_its_older_copy_stops(run, as_job):
    as_job("7")
    with hold_lease(run) as older:
        older.check()
        as_job("7", restart=1)
        with hold_lease(run) as newer:
            newer.check()
            with pytest.raises(LeaseLostError, match="job 7, restart 1"):
                older.check()
        assert read_holder(run) is None


def test_another_job_is_refused_while_the_holder_is_alive(run, as_job):
    as_job("7")
    with hold_lease(run):
        as_job("8")
        with pytest.raises(InputError), hold_lease(run):
            pass


def test_older_copy_does_not_take_the_lease_back(run, as_job):
    as_job("7", restart=1)
    with hold_lease(run) as newer:
        as_job("7", restart=0)
        with pytest.raises(InputError), hold_lease(run):
            pass
        newer.check()


def test_lease_of_a_dead_process_on_this_host_is_taken_over(run):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    left_behind(run, host=os.uname().nodename, process=process.pid)
    with hold_lease(run) as lease:
        lease.check()


def test_lease_whose_process_id_was_reused_is_taken_over(run):
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with stranger:
        earlier = find_process(stranger.pid).model_copy(update={"start": 1})
        left_behind(run, host=os.uname().nodename, process=stranger.pid, identity=earlier)
        with hold_lease(run) as lease:
            lease.check()


@pytest.mark.parametrize("skew", [-3600, 0, 3600])
def test_silent_lease_of_another_host_is_taken_over_after_the_timeout_whatever_its_clock(run, monkeypatch, skew):
    monkeypatch.setattr(leases, "LEASE_TIMEOUT", 0.01)
    left_behind(run)
    os.utime(run.lease_file, (time.time() + skew, time.time() + skew))
    with hold_lease(run) as lease:
        lease.check()


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_live_lease_of_a_host_with_another_clock_is_respected(run, monkeypatch, skew):
    left_behind(run)
    beats = iter(range(1, 1000))
    os.utime(run.lease_file, (time.time() + skew, time.time() + skew))

    def beat(seconds):
        now = time.time() + skew + next(beats)
        os.utime(run.lease_file, (now, now))

    monkeypatch.setattr(time, "sleep", beat)
    with pytest.raises(InputError, match="process 1 on elsewhere"), hold_lease(run):
        pass


def test_expiry_does_not_depend_on_the_clock_of_the_observer(run, monkeypatch):
    left_behind(run)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert not is_expired(run)
    long_ago = run.lease_file.stat().st_mtime - leases.LEASE_TIMEOUT - 1
    os.utime(run.lease_file, (long_ago, long_ago))
    assert is_expired(run)


def test_heartbeats_go_on_after_an_error_of_the_file_system(run, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_INTERVAL", 0.01)
    failures = iter([OSError(errno.ESTALE, "Stale file handle", str(run.lease_file))] * 3)
    renew = os.utime

    def utime(path, *arguments, **keywords):
        error = next(failures, None)
        if error is not None and not arguments:
            raise error
        return renew(path, *arguments, **keywords)

    with hold_lease(run):
        renew(run.lease_file, (0, 0))
        monkeypatch.setattr(os, "utime", utime)
        wait_until(lambda: run.lease_file.stat().st_mtime > 0)
        assert next(failures, None) is None


def test_lease_is_checked_again_after_a_transient_read_error(run, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_DELAYS", (0.0, 0.0))
    with hold_lease(run) as lease:
        errors = iter([OSError(errno.ESTALE, "Stale file handle")])
        read = Path.read_bytes

        def read_bytes(path):
            error = next(errors, None) if path == run.lease_file else None
            if error is not None:
                raise error
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        lease.check()


def test_lease_of_another_host_with_heartbeats_is_respected(run, monkeypatch):
    left_behind(run)
    monkeypatch.setattr(time, "sleep", lambda seconds: os.utime(run.lease_file))
    with pytest.raises(InputError, match="process 1 on elsewhere"), hold_lease(run):
        pass


def test_holder_renews_its_heartbeat(run, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_INTERVAL", 0.01)
    with hold_lease(run):
        os.utime(run.lease_file, (0, 0))
        wait_until(lambda: run.lease_file.stat().st_mtime > 0)


def test_job_restarts_without_limit_while_it_makes_progress_and_three_times_without(run, as_job):
    as_job("7")
    for step in range(0, 100, 10):
        record_start(run, step)
    for _ in range(MAX_RESTARTS_WITHOUT_PROGRESS - 1):
        record_start(run, 90)
    with pytest.raises(HpcJepaError, match=r"job 7 .* step 90"):
        record_start(run, 90)
    as_job("8")
    record_start(run, 90)
    assert len(read_starts(run)) == 13


def test_starts_outside_slurm_are_not_limited(run, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for _ in range(5):
        record_start(run, 0)


def test_torn_start_is_ignored_and_a_damaged_one_named(run, as_job):
    as_job("7")
    record_start(run, 0)
    with run.starts_file.open("a") as file:
        file.write('{"time": 1.0, "jo')
    assert [start.step for start in read_starts(run)] == [0]
    record_start(run, 5)
    assert [start.step for start in read_starts(run)] == [0, 5]
    with run.starts_file.open("a") as file:
        file.write("{x}\n")
    with pytest.raises(DataError, match=r"starts\.jsonl:3: "):
        read_starts(run)
