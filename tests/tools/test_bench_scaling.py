import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_scaling.py"


def bench(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """What a short run prints, and the folder of its figures."""
    out = tmp_path_factory.mktemp("scaling")
    finished = bench("--rounds", 1, "--batch", 4, "--processes", 2, "--json", "--out", out)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1]), out


@pytest.mark.slow
def test_every_axis_is_measured(result):
    figures, _ = result
    assert [*figures["clips"]] == ["1", "2", "4", "8"]
    assert [*figures["tokens"]] == ["64", "256", "576", "1024"]
    assert [*figures["objectives"]] == [str(count) for count in range(6)]
    assert [*figures["processes"]] == ["1", "2"]
    for axis in ("clips", "objectives", "processes"):
        assert min(figures[axis].values()) > 0
    assert figures["tokens"]["1024"]["ms"] > figures["tokens"]["64"]["ms"]  # 17 times the arithmetic
    assert [each["pixels"] for each in figures["tokens"].values()] == [32, 64, 96, 128]


@pytest.mark.slow
def test_the_prediction_begins_with_one_gpu_that_waits_for_nobody(result):
    rows = result[0]["prediction"]
    assert {row["gpus"] for row in rows} == {1, 8, 16, 32, 64, 128, 256, 512}
    assert all(row["efficiency"] == 1 for row in rows if row["gpus"] == 1)
    assert all(0 < row["efficiency"] <= row["overlapped_efficiency"] < 1 for row in rows if row["gpus"] > 1)


@pytest.mark.slow
def test_both_figures_are_drawn(result):
    for name in ("scaling.png", "prediction.png"):
        assert (result[1] / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((result[1] / "scaling.json").read_text()) == result[0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--out", "/proc"), "/proc: cannot be written to "),
        (("--batch", "5"), "--batch 5: 2 processes cannot share it; give a multiple of 4"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_anything_is_measured(arguments, complaint):
    finished = bench("--quick", *arguments)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {complaint}") and finished.stderr.count("\n") == 1
