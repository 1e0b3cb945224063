import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    stall, left = (f"in the background: {what}" for what in ("all that the steps lost", "left after these steps"))
    assert all(taken > 0 for name, taken in result["ms"].items() if name not in (stall, left)), result
    beside = result["steps_beside_ms"]
    lost = result["ms"]["in the background: between two steps"] + sum(beside) - len(beside) * result["step_ms"]
    assert len(beside) == 3 and result["ms"][stall] == pytest.approx(lost)  # steps that took less count too
    # Two moments, weights and target of the tiny model, in float32.
    assert 0.01 < result["gigabytes"] < 0.1
    assert not list(tmp_path.iterdir())


def test_an_unknown_model_is_named_in_one_line():
    finished = bench("--model", "nothing")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: "), finished.stderr


def test_a_folder_that_cannot_be_written_to_is_refused_in_one_line():
    finished = bench("--quick", "--folder", "/proc")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: /proc: cannot be written to ") and finished.stderr.count("\n") == 1
