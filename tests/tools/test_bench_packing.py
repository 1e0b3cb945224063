import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_jepa.data.clip_ring import FOLDER

TOOL = Path(__file__).parents[2] / "tools" / "bench_packing.py"


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"this system has no {FOLDER}")
def test_both_sides_train_the_same_and_clips_are_counted(motion_shards):
    arguments = ["--shards", str(motion_shards / "train")]
    for name, value in {"size": 28, "frames": 8, "runs": 2, "rounds": 1, "steps": 2, "batch": 4}.items():
        arguments += [f"--{name}", str(value)]
    finished = subprocess.run(
        [sys.executable, TOOL, *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout)
    assert result["runs"] == 2
    assert result["metrics"] == "equal to the bit"
    assert 0 <= result["taken"] <= 1
    assert all(rate > 0 for rate in result["clips_per_cpu_second"].values())
    assert result["limit"] == pytest.approx(1 / (1 - result["share_of_data"] / 2))
    assert min(result["copy_ms"].values()) > 0
    assert 0 < result["limit_with_copies"] < result["limit"]
