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
    """The one-line error of a refused command."""
    assert finished.returncode == 2, finished.stderr[-2000:]
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1, finished.stderr
    return finished.stderr


def test_an_unknown_model_is_an_input_error():
    assert "gigantic: " in refused(bench("--model", "gigantic"))


def test_all_implementations_are_timed():
    finished = bench("--quick", "--json")
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["parameters"] > 0
    assert set(result["ms"]) == {"ours", "two passes", "tensor by tensor", "copy"}
    assert all(figure > 0 for figure in result["ms"].values())


def test_explicit_options_win_over_quick():
    finished = bench("--rounds", "2", "--quick", "--json")
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["rounds"] == 2
    assert result["parameters"] < 10e6  # the default model of --quick


def test_the_ema_statement_of_a_peer_is_timed(checkout):
    finished = bench("--quick", "--json", "--peer", checkout)
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["ms"]["peer"] >= 50  # duration of its sleep
    assert result["over_ours"]["peer"] == pytest.approx(result["ms"]["peer"] / result["ms"]["ours"])


def test_the_last_line_has_the_ratio_to_the_peer(checkout):
    finished = bench("--quick", "--peer", checkout / "vjepa2")
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "x the peer's code" in finished.stdout.splitlines()[-1]


def test_a_folder_without_a_trainer_is_an_input_error(tmp_path):
    message = refused(bench("--quick", "--peer", tmp_path))
    assert str(tmp_path) in message and "app/vjepa_2_1/train.py" in message


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("train_step", "step", "train_step"),
        ("_foreach_mul_", "mul", "_foreach_mul_"),
        ("alpha=1 - m", "alpha=1 - momentum", "momentum"),
    ],
)
def test_a_peer_with_another_ema_is_an_input_error(checkout, trainer, old, new, name):
    trainer.write_text(trainer.read_text().replace(old, new))
    message = refused(bench("--quick", "--peer", checkout))
    assert str(trainer) in message and name in message


@pytest.mark.parametrize("content", [b"def (", "caf\xe9 = 1".encode("latin-1")], ids=["syntax", "encoding"])
def test_an_unreadable_trainer_is_an_input_error(content, tmp_path):
    trainer = tmp_path / "app" / "vjepa" / "train.py"
    trainer.parent.mkdir(parents=True)
    trainer.write_bytes(content)
    assert f"{trainer}: " in refused(bench("--quick", "--peer", tmp_path))
