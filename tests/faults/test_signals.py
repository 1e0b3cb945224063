"""Stop signals at every moment of a start: exit code 130, or killed before Python handles them; the run stays whole."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import pytest

from hpc_jepa.runs.run_dir import open_run
from hpc_jepa.runs.state import read_state

STOPPED = (130, -signal.SIGINT)
"""A shell sees 130 in both cases. Python ends itself by SIGINT if the signal comes while it starts or finishes."""
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
MOMENTS, MOMENTS_BUILT = 8, 5
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def catches(pid, number):
    """Whether a process has a handler for a signal now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def assert_whole(run):
    """Nothing in a run folder is damaged, if there is one."""
    if (run / "config.yaml").exists():
        open_run(run)
    state = read_state(run / "state.json")
    assert state is None or state.state in ("running", "interrupted")
    assert not [*run.glob("checkpoints/damaged-*")]
    for manifest in run.glob("checkpoints/step-*/manifest.json"):
        json.loads(manifest.read_text())


def test_signals_at_growing_delays_of_a_fresh_process(regime, finish, state_of, tmp_path):
    path, run = regime(100_000, every=50_000)
    command = [sys.executable, "-m", "hpc_jepa", "train", str(path)]
    log = (tmp_path / "fresh.log").open("w")
    whole = None
    for moment, number in zip(range(MOMENTS), cycle(SIGNALS), strict=False):
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True
        )
        if whole is None:  # the first start sets the scale
            while not (run / "metrics.jsonl").exists() and process.poll() is None:
                time.sleep(0.01)
            whole = time.monotonic() - started
        else:
            time.sleep(whole * (moment / MOMENTS) ** 2)
        caught = catches(process.pid, number)
        process.send_signal(number)
        code = process.wait()
        assert code in STOPPED if caught else code in (*STOPPED, -number), (moment, number, code)
        assert_whole(run)
    code, text = finish("train", path, "schedule.steps=3", "checkpoint.accept=[schedule.steps]")
    assert code == 0 and state_of(run) == "done", text


def test_signals_at_growing_delays_while_a_run_is_built(regime, start, finish, state_of):
    path, run = regime(100_000, every=50_000)
    whole = None
    for moment, number in zip(range(MOMENTS_BUILT), cycle(SIGNALS), strict=False):
        started = time.monotonic()
        command = start("train", path)
        if whole is None:
            command.wait_for(lambda: (run / "metrics.jsonl").exists())
            whole = time.monotonic() - started
        else:
            time.sleep(whole * moment / MOMENTS_BUILT)
        caught = catches(command.pid, number)
        command.send_signal(number)
        code = command.wait()
        assert code in STOPPED if caught else code in (*STOPPED, -number), (moment, number, code, command.text)
        assert_whole(run)
    code, text = finish("train", path, "schedule.steps=3", "checkpoint.accept=[schedule.steps]")
    assert code == 0 and state_of(run) == "done", text
