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
    stall, rest = "background: total stall", "background: rest after these steps"
    assert all(taken > 0 for name, taken in result["ms"].items() if name not in (stall, rest)), result
    during_save = result["steps_during_save_ms"]
    extra = result["ms"]["background: copy between two steps"] + sum(during_save) - 3 * result["step_ms"]
    assert len(during_save) == 3 and result["ms"][stall] == pytest.approx(extra)  # faster steps count too
    # Two moments, weights and target of the tiny model, in float32.
    assert 0.01 < result["gigabytes"] < 0.1
    assert not list(tmp_path.iterdir())


def test_an_unknown_model_is_an_input_error():
    finished = bench("--model", "nothing")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: "), finished.stderr


def test_an_unwritable_folder_is_an_input_error():
    finished = bench("--quick", "--folder", "/proc")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: /proc: ") and finished.stderr.count("\n") == 1
