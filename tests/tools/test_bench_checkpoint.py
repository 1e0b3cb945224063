import json
import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "bench_checkpoint.py"


def bench(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_every_way_to_save_is_timed(tmp_path):
    finished = bench("--quick", "--folder", str(tmp_path), "--json")
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout)
    assert all(taken > 0 for name, taken in result["ms"].items() if "left after" not in name), result
    # Two moments, weights and target of the tiny model, in float32.
    assert 0.01 < result["gigabytes"] < 0.1
    assert not list(tmp_path.iterdir())


def test_an_unknown_model_is_named_in_one_line():
    finished = bench("--model", "nothing")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: "), finished.stderr
