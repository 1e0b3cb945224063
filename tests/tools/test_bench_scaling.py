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
    """Output of a short run, and the folder of its plots."""
    out = tmp_path_factory.mktemp("scaling")
    finished = bench("--rounds", 1, "--batch", 4, "--processes", 2, "--json", "--out", out)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1]), out


@pytest.mark.slow
def test_every_axis_is_measured(result):
    values, _ = result
    assert [*values["clips"]] == ["1", "2", "4", "8"]
    assert [*values["tokens"]] == ["64", "256", "576", "1024"]
    assert [*values["objectives"]] == [str(count) for count in range(6)]
    assert [*values["processes"]] == ["1", "2"]
    for axis in ("clips", "objectives", "processes"):
        assert min(values[axis].values()) > 0
    assert values["tokens"]["1024"]["ms"] > values["tokens"]["64"]["ms"]  # 17 times the arithmetic
    assert [each["pixels"] for each in values["tokens"].values()] == [32, 64, 96, 128]


@pytest.mark.slow
def test_predicted_efficiency_is_one_on_one_gpu_and_lower_on_more(result):
    rows = result[0]["prediction"]
    assert {row["gpus"] for row in rows} == {1, 8, 16, 32, 64, 128, 256, 512}
    assert all(row["efficiency"] == 1 for row in rows if row["gpus"] == 1)
    assert all(0 < row["efficiency"] <= row["overlapped_efficiency"] < 1 for row in rows if row["gpus"] > 1)


@pytest.mark.slow
def test_both_plots_are_drawn(result):
    for name in ("scaling.png", "prediction.png"):
        assert (result[1] / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((result[1] / "scaling.json").read_text()) == result[0]


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("--out", "/proc"), "/proc: "),
        (("--batch", "5"), "--batch 5: "),
    ],
)
def test_invalid_options_are_refused_before_measuring(arguments, place):
    finished = bench("--quick", *arguments)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {place}") and finished.stderr.count("\n") == 1
