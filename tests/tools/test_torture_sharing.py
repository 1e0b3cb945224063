"""Short form of ``tools/torture_sharing.py``."""

import os
import re
import sys
from pathlib import Path

import pytest

from hpc_jepa.data.clip_ring import FOLDER
from tests.waiting import run

TOOL = Path(__file__).parents[2] / "tools" / "torture_sharing.py"


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"this system has no {FOLDER}")
def test_killed_and_stopped_processes_change_nothing(motion_shards):
    options = {"rounds": 4, "steps": 8, "stop": 1, "shards": motion_shards / "unlabelled"}
    command = [sys.executable, str(TOOL), *(f"--{name}={value}" for name, value in options.items())]
    finished = run(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert finished.returncode == 0, finished.stderr[-4000:]
    attacks, clips = map(int, re.search(r"(\d+) attacks in 4 rounds.* (\d+) clips taken", finished.stdout).groups())
    assert attacks > 0
    assert clips > 0
