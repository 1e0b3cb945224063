"""Short form of ``tools/torture.py``: two processes, twenty kills, every ZeRO stage."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.waiting import run

TOOL = Path(__file__).parents[2] / "tools" / "torture.py"


@pytest.mark.slow
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
    finished = run(command, env=environment)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert finished.stdout.startswith("20 kills (")
    # A run that finishes before its kill is followed by another.
    runs = re.search(r"nothing lost, (\d+) runs equal", finished.stdout)
    assert runs and int(runs.group(1)) >= 4, finished.stdout
