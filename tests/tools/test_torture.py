"""The short form of ``tools/torture.py``: a job of two processes, killed twenty times, at every ZeRO stage."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "torture.py"


@pytest.mark.slow
@pytest.mark.timeout(900)  # starved processes are slow, not lost
def test_twenty_kills_lose_nothing(motion_shards):
    command = [
        sys.executable,
        str(TOOL),
        "--kills",
        "20",
        "--steps",
        "16",
        "--shards",
        str(motion_shards / "unlabelled"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=880, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert finished.stdout.startswith("20 kills (")
    # A run that was faster than a kill makes room for another.
    runs = re.search(r"of 2 processes, ZeRO 0,1,2,3: nothing lost, (\d+) runs equal", finished.stdout)
    assert runs and int(runs.group(1)) >= 4, finished.stdout
