"""Runs that share their clips end as a lone run, to the bit, also when some are killed and stopped."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest
import yaml

from hpc_jepa.data.clip_ring import FOLDER
from tests.waiting import communicate, wait_until

STEPS = 40

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"this system has no {FOLDER}")


@pytest.fixture
def write(tiny_regime, tmp_path):
    """``write(study, share)`` writes the configuration of a small run; returns its path and the run folder."""

    def make(study, share="auto"):
        settings = tiny_regime(STEPS, every=10) | {"study": study, "runs": str(tmp_path / "runs")}
        settings["data"] = settings["data"] | {"reading": {"share": share}}
        settings["monitor"] = {"log_every": 1, "tensorboard": False}
        path = tmp_path / f"{study}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path, tmp_path / "runs" / study / "tiny" / "baseline" / "seed-239"

    return make


def start(path):
    command = [sys.executable, "-m", "hpc_jepa", "train", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def lines_in(run):
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def start_and_stop(path, run):
    """Start a run and stop it at its first steps."""
    process = start(path)
    wait_until(lambda: lines_in(run) or process.poll() is not None, poll=0.002)
    process.send_signal(signal.SIGSTOP)
    return process


def finish(process):
    _, errors = communicate(process)
    assert process.returncode == 0, errors[-2000:]


def weights(run):
    """Checksums of the tensors of the last checkpoint."""
    folder = max((run / "checkpoints").glob("step-*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))}


def shared(run):
    return max(json.loads(line).get("shared_clips", 0) for line in (run / "metrics.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_sharing_runs_end_as_a_lone_one_although_some_are_killed_and_stopped(write, metrics_of):
    path, alone = write("alone", "off")
    finish(start(path))
    written = {name: write(name) for name in ("steady", "stopped", "killed")}
    processes = {name: start_and_stop(path, run) for name, (path, run) in written.items()}
    for process in processes.values():
        process.send_signal(signal.SIGCONT)
    (_, steady), (_, stopped), (path, killed) = written.values()
    wait_until(lambda: lines_in(stopped) > 8 or processes["stopped"].poll() is not None, poll=0.002)
    processes["stopped"].send_signal(signal.SIGSTOP)
    wait_until(lambda: lines_in(killed) > 12 or processes["killed"].poll() is not None, poll=0.002)
    processes["killed"].kill()
    communicate(processes["killed"])
    finish(processes["steady"])
    finish(start(path))
    assert processes["stopped"].poll() is None
    processes["stopped"].send_signal(signal.SIGCONT)
    finish(processes["stopped"])
    for _, run in written.values():
        assert metrics_of(run) == metrics_of(alone)
        assert weights(run) == weights(alone)
    assert shared(steady) + shared(stopped) > 0
    assert shared(alone) == 0
