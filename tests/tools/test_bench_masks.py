import json
import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "bench_masks.py"


def test_ours_the_plain_form_and_the_floor_are_timed_for_every_kind_of_mask():
    finished = subprocess.run(
        [sys.executable, TOOL, "--clips", "4", "--rounds", "1", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    kinds = json.loads(finished.stdout.splitlines()[-1])["kinds"]
    assert set(kinds) == {"multi-block", "motion-guided, trilinear map", "motion-guided, area map"}
    assert all(row["ours"] > 0 and row["plain"] > 0 and row["floor"] > 0 for row in kinds.values()), kinds
