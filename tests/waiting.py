"""Waits that follow progress: they fail when nothing has changed for long, not at a time of the clock."""

import subprocess
import sys
import time
from functools import cache

import psutil

LEAST_PATIENCE = 120.0
STARTS = 20
"""Patience in starts of a process, the slowest thing during which nothing that a test sees may change."""


@cache
def patience():
    """Seconds without a change after which a wait fails, from the time that a process takes to start now."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import hpc_jepa.training.loop"], check=True)
    return max(LEAST_PATIENCE, STARTS * (time.monotonic() - started))


def cpu_seconds(pids):
    """Number of processes, and their CPU time in whole seconds: in a deadlock it stands still, but for polling."""
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:  # it has just ended
            continue
        total += times.user + times.system
    return len(pids), int(total)


def work_of_children():
    """Number and CPU time of the processes below this one."""
    return cpu_seconds([child.pid for child in psutil.Process().children(recursive=True)])


class Patience:
    """``check()`` fails when ``progress()`` has not changed for a while, which is longer on a busy machine."""

    def __init__(self, progress=work_of_children):
        self._progress = progress
        self._seen, self._changed = progress(), time.monotonic()

    def check(self):
        waited = time.monotonic() - self._changed
        if waited < LEAST_PATIENCE:
            return
        now = self._progress()
        if now != self._seen:
            self._seen, self._changed = now, time.monotonic()
        else:
            assert waited < patience(), f"nothing has changed for {waited:.0f} s: {now}"


def wait_until(condition, progress=work_of_children, poll=0.02):
    """Wait until ``condition()`` is true and return its value."""
    limit = Patience(progress)
    while not (value := condition()):
        limit.check()
        time.sleep(poll)
    return value


def communicate(process, progress=work_of_children):
    """``process.communicate()``. Kills the process and fails when it makes no progress."""
    limit = Patience(progress)
    try:
        while True:
            try:
                return process.communicate(timeout=1.0)
            except subprocess.TimeoutExpired:
                limit.check()
    except BaseException:
        process.kill()
        raise


def run(command, progress=work_of_children, **options):
    """``subprocess.run(command, capture_output=True, text=True)``. Kills the process when it makes no progress."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, **options) as process:
        output, errors = communicate(process, progress)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
