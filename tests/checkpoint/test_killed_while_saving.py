"""A process is killed at random times while it saves: every committed checkpoint is complete and none is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_jepa.checkpoint import layout, reader
from hpc_jepa.runs.run_dir import RunDir

KILLS, SAVES = 60, 15


@pytest.fixture
def kill_while_saving(tmp_path):
    """``kill_while_saving(first, seconds)``: a process that commits steps after ``first`` dies after ``seconds``."""
    command = [sys.executable, str(Path(__file__).parent / "workers" / "save_forever.py"), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:

        def kill(first, seconds):
            parent.stdin.write(f"{first}\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "dead\n"

        yield kill
        parent.stdin.close()


def test_a_kill_at_any_time_leaves_only_complete_checkpoints(kill_while_saving, tmp_path, caplog, save):
    moments = random.Random(8)
    last = kills = 0
    while kills < KILLS or last < SAVES:  # on a slow disk most are killed before their first commit
        kills += 1
        kill_while_saving(last, moments.uniform(0.0, 0.03))
        latest = tmp_path / "checkpoints" / "latest"
        if latest.is_symlink():
            assert layout.verify_dir(latest.resolve()) == [], "latest is damaged"
        valid = layout.latest_valid(tmp_path)
        step = valid.step if valid else 0
        assert step >= last, "a committed checkpoint was lost"
        visible = list((tmp_path / "checkpoints").glob("step-*"))
        if valid:
            assert valid.path == max(visible) == latest.resolve()
            assert (reader.open_tensors(valid.path)["student.w"] == step).all()
        last = step
    assert caplog.text == "", "a kill was reported as damage"
    save(tmp_path, last + 1, keep=2)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "latest",
        *(RunDir(tmp_path).checkpoint_dir(step).name for step in (last, last + 1)),
    }
