"""A job stops before its time runs out, and stop signals interrupt it from the first moment."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hpc_jepa.errors import EXIT_INTERRUPTED
from hpc_jepa.training.shutdown import SAFETY_FACTOR, SHUTDOWN_SECONDS, STOP_SIGNALS, StopSignal, WallTime


@pytest.fixture(autouse=True)
def hangup_not_ignored():
    """SIGHUP has its default handler, although the tests may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_step_that_may_not_fit_is_not_started(monkeypatch):
    now = 1_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    wall_time = WallTime(deadline=1_000.0 + SHUTDOWN_SECONDS + SAFETY_FACTOR * (20 + 4) + 20 + 1)
    assert wall_time.fits_another(then=4)
    with wall_time.timed():
        now += 20
    assert wall_time.fits_another(then=4)
    now += 2
    assert not wall_time.fits_another(then=4)
    assert wall_time.fits_another()


def test_without_a_deadline_everything_fits(monkeypatch):
    for name in ("SLURM_JOB_END_TIME", "HPC_JEPA_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    assert WallTime.from_environment().fits_another(then=1e9)


@pytest.mark.parametrize("name", ["SLURM_JOB_END_TIME", "HPC_JEPA_JOB_END_TIME"])
def test_the_deadline_is_read_from_the_environment(name, monkeypatch):
    monkeypatch.setenv(name, str(int(time.time()) + 60))
    assert WallTime.from_environment().fits_another()
    assert not WallTime.from_environment().fits_another(then=60)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_sets_the_flag_and_handlers_are_restored(number):
    before = {known: signal.getsignal(known) for known in STOP_SIGNALS}
    with StopSignal() as stop:
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert {known: signal.getsignal(known) for known in STOP_SIGNALS} == before


def test_a_second_interrupt_is_not_deferred():
    with StopSignal(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_hangup_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal is None


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_before_heavy_imports_every_stop_signal_exits_with_the_code_that_requeues(number):
    """The import of the command line is replaced by one that reports and waits."""
    program = (
        "import sys, time, types\n"
        "from hpc_jepa import cli\n"
        "class Waiting(types.ModuleType):\n"
        "    def __getattr__(self, name): print('importing', flush=True); time.sleep(60)\n"
        "sys.modules['hpc_jepa.cli.app'] = Waiting('app')\n"
        "cli.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    process.communicate()
    assert process.returncode == EXIT_INTERRUPTED
