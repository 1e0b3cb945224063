import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_shards.py"


def bench(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_every_pair_is_timed_and_the_folder_is_left_empty(tmp_path):
    finished = bench("--clips", 8, "--kilobytes", 100, "--rounds", 1, "--workers", 1, "--folder", tmp_path, "--json")
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert (result["files"], result["workers"], len(result["pairs"])) == (8, 1, 5)
    assert result["device"].startswith("CPU, ")
    for pair in result["pairs"]:
        ours, theirs = (statistics.median(pair[side]) for side in ("ours_s", "theirs_s"))
        assert pair["speed_ratio"] == pytest.approx(theirs / ours)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_an_input_error():
    finished = bench("--quick", "--folder", "/proc")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: /proc: ") and finished.stderr.count("\n") == 1
