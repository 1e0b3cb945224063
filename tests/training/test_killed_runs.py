"""Commands killed at random moments, and one rank of two killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.waiting import communicate, wait_until

STEPS = 60


@pytest.fixture
def write(motion_shards, tmp_path):
    """``write(study, steps)`` writes the configuration of a small run; returns its path and the run folder."""

    def make(study, steps=STEPS):
        settings = {
            "regime": "test",
            "study": study,
            "runs": str(tmp_path / "runs"),
            "model": {
                "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                "predictor": {"width": 16, "depth": 1, "heads": 2},
            },
            "data": {
                "sources": {"motion8": {"shards": str(motion_shards / "unlabelled")}},
                "clip": {"frames": 8, "stride": 2, "size": 32},
            },
            "schedule": {"steps": steps},
            "engine": {"precision": "fp32", "batch_size": 4},
            "checkpoint": {"every": 5},
            "monitor": {"log_every": 1, "health_every": 1, "tensorboard": False},
        }
        path = tmp_path / f"{study}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path, tmp_path / "runs" / study / "test" / "baseline" / "seed-239"

    return make


def start(path, *launcher):
    command = [sys.executable, *(launcher or ("-m", "hpc_jepa")), "train", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def lines_in(run):
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(run, count, process):
    wait_until(lambda: lines_in(run) >= count or process.poll() is not None, poll=0.002)


def test_a_run_killed_at_random_steps_ends_as_an_undisturbed_one(write, metrics_of):
    path, whole = write("whole")
    assert start(path).wait() == 0
    path, killed = write("killed")
    moments = random.Random(3)
    for share in (1, 2):
        process = start(path)
        wait_for_lines(killed, moments.randrange((share - 1) * STEPS // 3 + 1, share * STEPS // 3), process)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
        assert lines_in(killed) < STEPS
    assert start(path).wait() == 0
    assert metrics_of(killed) == metrics_of(whole)
    assert not [name for name in killed.rglob(".*") if name.name != ".lock"]


def ranks_of(launcher):
    """Process ids of the workers of torchrun, by rank."""
    workers = {}
    for word in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        variables = Path(f"/proc/{word}/environ").read_text().split("\0")
        workers[dict(item.split("=", 1) for item in variables if "=" in item).get("RANK")] = int(word)
    return workers


def test_when_one_rank_of_two_is_killed_the_other_fails_with_one_line(write):
    path, run = write("pair", steps=100_000)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "hpc_jepa")
    process = start(path, *launcher)
    wait_for_lines(run, 3, process)
    os.kill(ranks_of(process)["1"], signal.SIGKILL)
    _, errors = communicate(process)
    assert process.returncode == 1
    assert "error: rank 0: " in errors
    assert json.loads((run / "state.json").read_text())["state"] == "failed"
