import json
import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "bench_masked_loss.py"


def test_both_forms_are_timed_and_their_memory_is_seen():
    finished = subprocess.run(
        [sys.executable, TOOL, "--clips", "1", "--width", "96", "--rounds", "1", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert all(figure > 0 for figure in result["ms"].values()), result
    assert set(result["peak_mb"]) == {"ours", "plain"}
    assert result["peak_mb"]["plain"] > 2  # of 600 tokens at least the targets, 384 channels each, all at once
