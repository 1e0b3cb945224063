"""A process that saves checkpoints is killed at random moments: what is committed is whole, and nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_jepa.checkpoint.store import committing, damage, folder, newest, newest_sound
from hpc_jepa.errors import CheckpointError

KILLS, SAVES = 60, 15


def save(run, step, keep=2):
    with committing(run, step, {"world_size": 1}, keep) as partial:
        (partial / "engine").mkdir()
        (partial / "engine" / "state").write_bytes(step.to_bytes(4, "big") * 5000)
        (partial / "weights.safetensors").write_bytes(step.to_bytes(4, "big") * 5000)


@pytest.fixture
def kill_while_saving(tmp_path):
    """``kill_while_saving(first, seconds)``: a process that commits steps after ``first`` dies after ``seconds``."""
    command = [sys.executable, str(Path(__file__).parent / "workers" / "save_forever.py"), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:

        def kill(first, seconds):
            parent.stdin.write(f"{first}\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "dead\n"

        yield kill


def test_a_kill_at_any_moment_leaves_only_whole_checkpoints(kill_while_saving, tmp_path, caplog):
    moments = random.Random(8)
    last = kills = 0
    while kills < KILLS or last < SAVES:  # on a slow disk most die before their first
        kills += 1
        kill_while_saving(last, moments.uniform(0.0, 0.03))
        sound = newest_sound(tmp_path)
        step = sound.step if sound else 0
        assert step >= last, "a committed checkpoint was lost"
        visible = list((tmp_path / "checkpoints").glob("step-*"))
        if sound:
            assert sound.path == max(visible)
            assert (sound.path / "weights.safetensors").read_bytes() == step.to_bytes(4, "big") * 5000
        last = step
    assert caplog.text == "", "a kill was taken for damage"
    save(tmp_path, last + 1)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "latest",
        *(folder(tmp_path, step).name for step in (last, last + 1)),
    }


def test_a_save_that_fails_leaves_no_trace(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(OSError, match="full"), committing(tmp_path, 2, {}, keep=1) as partial:
        (partial / "half").write_text("half")
        raise OSError("the disk is full")
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"latest", "step-00000001"}


def test_damage_is_named_and_set_aside_by_the_process_that_goes_on(tmp_path, caplog):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    (folder(tmp_path, 3) / "manifest.json").unlink()
    (folder(tmp_path, 2) / "engine" / "state").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"step-00000003/manifest\.json: missing or damaged"):
        newest(tmp_path)
    assert newest_sound(tmp_path).step == 1
    assert "engine/state: 5 bytes instead of 20000; set aside as damaged-00000002" in caplog.text
    assert newest(tmp_path).step == 1
    assert damage(newest(tmp_path)) == []
    (folder(tmp_path, 1) / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"no other checkpoint to go on from; remove .* to begin anew"):
        newest_sound(tmp_path)
