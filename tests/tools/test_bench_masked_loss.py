import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_masked_loss.py"


def bench(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, "--clips", "1", "--width", "96", "--rounds", "1", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def result_of(finished):
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.parametrize("memory", [[], ["--give-memory-back"]])
def test_both_forms_have_times_and_peak_memory(memory):
    result = result_of(bench("--quick", "--json", *memory))
    assert all(figure > 0 for figure in result["ms"].values()), result
    assert set(result["peak_mb"]) == {"ours", "plain"}
    shapes, rounds = result["shapes"], result["rounds"]
    assert (shapes["clips"], shapes["width"], shapes["levels"], shapes["grid"], rounds) == (1, 96, 4, [8, 14, 14], 1)
    assert len(shapes["predicted_tokens"]) == 2 and all(0 < tokens < 1568 for tokens in shapes["predicted_tokens"])
    assert result["peak_mb"]["plain"] > 2  # of 600 tokens at least the targets, 384 channels each, all at once


def test_the_loss_of_a_peer_has_time_and_peak_memory(checkout):
    result = result_of(bench("--json", "--peer", checkout))
    assert result["ms"]["peer, raw targets"] >= 100  # duration of its sleep
    assert result["peer_ratio"] == pytest.approx(result["ms"]["peer, raw targets"] / result["ms"]["ours, raw targets"])
    assert result["peak_mb"]["peer"] > 4  # it normalises all 1568 tokens and gathers some of them


def test_a_peer_with_one_level_and_other_names_is_compared(checkout, trainer):
    text = trainer.read_text().replace("loss_pred = loss_fn(z_pred, h, masks_pred)", "loss = loss_fn(z, h, masks_pred)")
    trainer.unlink()
    other = checkout / "vjepa2" / "app" / "vjepa" / "train.py"
    other.parent.mkdir()
    one_level = text.replace("levels_predictor", "1").replace(
        "=embed_dim_encoder", "=levels_predictor * embed_dim_encoder"
    )
    other.write_text(one_level)
    finished = bench("--peer", checkout)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "the peer's code over ours: " in finished.stdout.splitlines()[-1]


def test_a_peer_without_the_loss_is_an_input_error(checkout, trainer):
    trainer.write_text(trainer.read_text().replace("loss_fn", "criterion"))
    finished = bench("--peer", checkout)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {trainer}: ")
    assert finished.stderr.count("\n") == 1
