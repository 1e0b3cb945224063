import json
import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "bench_ema.py"


def bench(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_model_that_is_not_there_is_told_in_one_line():
    finished = bench("--model", "gigantic")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: gigantic: unknown model"), finished.stderr
    assert finished.stderr.count("\n") == 1


def test_all_ways_to_average_are_timed():
    finished = bench("--quick", "--json")
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["parameters"] > 0
    joined = {"AdamW", "AdamW, then average", "AdamW with average"}
    assert set(result["ms"]) == {"ours", "two passes", "tensor by tensor", "copy"} | joined
    assert all(figure > 0 for figure in result["ms"].values())
