import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_ema.py"


def bench(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def refused(finished):
    """What the one line of an error says."""
    assert finished.returncode == 2, finished.stderr[-2000:]
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1, finished.stderr
    return finished.stderr


def test_a_model_that_is_not_there_is_told_in_one_line():
    assert "gigantic: unknown model" in refused(bench("--model", "gigantic"))


def test_all_ways_to_average_are_timed():
    finished = bench("--quick", "--json")
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["parameters"] > 0
    assert set(result["ms"]) == {"ours", "two passes", "tensor by tensor", "copy"}
    assert all(figure > 0 for figure in result["ms"].values())


def test_what_is_asked_for_beside_the_quick_form_is_done():
    finished = bench("--rounds", "2", "--quick", "--json")
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["rounds"] == 2
    assert result["parameters"] < 10e6  # the tiny model, of which nothing was said


def test_the_averaging_statement_of_other_code_is_timed_beside_ours(checkout):
    finished = bench("--quick", "--json", "--peer", checkout)
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["ms"]["peer"] >= 50  # it sleeps so long
    assert result["over_ours"]["peer"] == pytest.approx(result["ms"]["peer"] / result["ms"]["ours"])


def test_the_last_line_says_how_other_code_compares(checkout):
    finished = bench("--quick", "--peer", checkout / "vjepa2")
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "x the peer's code" in finished.stdout.splitlines()[-1]


def test_a_folder_without_a_trainer_is_refused_in_one_line(tmp_path):
    said = refused(bench("--quick", "--peer", tmp_path))
    assert f"{tmp_path}: no app/vjepa_2_1/train.py or app/vjepa/train.py here or in vjepa2/" in said


@pytest.mark.parametrize(
    ("there", "instead", "complaint"),
    [
        ("train_step", "step", "no function train_step; "),
        ("_foreach_mul_", "mul", "no 'with' around a call of _foreach_mul_; "),
        ("alpha=1 - m", "alpha=1 - momentum", "reads momentum, for which this benchmark has no value"),
    ],
)
def test_code_that_averages_in_another_way_is_refused_in_one_line(checkout, trainer, there, instead, complaint):
    trainer.write_text(trainer.read_text().replace(there, instead))
    said = refused(bench("--quick", "--peer", checkout))
    assert str(trainer) in said and complaint in said


@pytest.mark.parametrize("content", [b"def (", "caf\xe9 = 1".encode("latin-1")], ids=["syntax", "encoding"])
def test_a_trainer_that_cannot_be_read_is_told_in_one_line(content, tmp_path):
    trainer = tmp_path / "app" / "vjepa" / "train.py"
    trainer.parent.mkdir(parents=True)
    trainer.write_bytes(content)
    assert f"{trainer}: not Python: " in refused(bench("--quick", "--peer", tmp_path))
