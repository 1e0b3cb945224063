import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_jepa.objectives.registry import primitives

TOOL = Path(__file__).parents[2] / "tools" / "bench_objectives.py"
MEASURED = {*primitives(), "ld_forecast", "fwm_hw_ld"} - {"base"}


def bench(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, "--width", "64", "--batch", "1", "--rounds", "1", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_every_objective_is_timed_and_compared_with_the_peer(checkout):
    finished = bench("--json", "--peer", checkout)
    assert finished.returncode == 0, finished.stderr[-2000:]
    rows = json.loads(finished.stdout.splitlines()[-1])["objectives"]
    assert set(rows) == MEASURED
    assert rows["sigreg"]["extra_ms"] > 0 and rows["sigreg"]["peak_mb"] > 1  # the projections alone
    assert {name for name, row in rows.items() if "peer_ms" in row} == {"delta", "hw", "ld"}
    assert rows["ld"]["peer_ms"] >= 200 > rows["hw"]["peer_ms"]  # the branch of delta and ld sleeps
    assert all(row["peer_ratio"] in (None, row["peer_ms"] / row["extra_ms"]) for row in map(rows.get, ("delta", "ld")))


def test_a_peer_without_objectives_is_an_input_error(checkout, trainer):
    trainer.write_text(trainer.read_text().replace("_coeff", "_weight"))
    finished = bench("--peer", checkout)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {trainer}: ") and finished.stderr.count("\n") == 1
