import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_evaluation.py"


@pytest.mark.slow
def test_both_sides_write_the_same_records():
    pytest.importorskip("skvideo", reason="needs the extra 'quickstart'")
    small = {"runs": 2, "videos": 12, "size": 32, "frames": 4, "width": 32, "depth": 1, "heads": 1, "patch": 16}
    arguments = [word for name, value in {**small, "rounds": 1}.items() for word in (f"--{name}", str(value))]
    finished = subprocess.run(
        [sys.executable, TOOL, *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout)
    assert (result["runs"], result["records"]) == (2, "equal to the byte")
    assert result["limit"] == pytest.approx(1 / (1 - result["share_of_clips"] / 2)) and result["ratio"] > 0
