import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOOL = Path(__file__).parents[2] / "tools" / "bench_step.py"

CONFIG = {
    "regime": "tiny",
    "model": {
        "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
        "predictor": {"width": 16, "depth": 1, "heads": 2},
    },
    "data": {"sources": {"none": {"shards": "read/by/nobody"}}, "clip": {"frames": 8, "stride": 2, "size": 32}},
    "objectives": ["fwm", "hw", "ld"],
    "engine": {"precision": "fp32", "batch_size": 4},
}

THEIR_TRAINING = """
import time
from src.datasets.data_manager import init_data  # reads video: stood in for
from src.utils.logging import gpu_timer

class Collator:
    def __call__(self, clips):
        return [len(clips), clips[0][0][0].shape, clips[0][-1][0].tolist()]

def main(args):
    data = args["data"]
    loader, sampler = init_data(collator=Collator(), batch_size=data["batch_size"], dataset_fpcs=[4], rank=0)
    sampler.set_epoch(0)
    for _, batch in zip(range(args["optimization"]["ipe"]), loader):
        assert batch == [4, (3, 4, data["crop_size"], data["crop_size"]), [0, 1, 2, 3]], batch
        result, _ = gpu_timer(lambda: time.sleep(0.2) or "done")
        assert result == "done"
        if data["crop_size"] == 48:
            raise ArithmeticError("it diverged")
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture
def peer(tmp_path):
    """Code of the shape that is compared with, which sleeps instead of training."""
    files = {
        "app/theirs/train.py": THEIR_TRAINING,
        "src/utils/logging.py": "def gpu_timer(step):\n    return step(), -1.0\n",
        "config.yaml": yaml.safe_dump({"app": "theirs", "data": {"crop_size": 32}}),
    }
    for name, text in files.items():
        path = tmp_path / "peer" / "vjepa2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "peer"


def bench(*arguments):
    command = [sys.executable, TOOL, *map(str, arguments), "--quick", "--json"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_every_phase_is_timed_and_compared_with_a_peer(config, peer):
    finished = bench(config, "--peer", peer, "--peer-config", peer / "vjepa2" / "config.yaml")
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert all(taken > 0 for taken in result["phases_ms"].values()), result
    assert 0 < result["floor_ms"] < result["step_ms"]
    assert result["peer_ms"] >= 200  # duration of its sleep


def test_a_step_is_compared_with_another_setting(config):
    finished = bench(config, "--compare", "engine.batch_size=32", "--compare", "engine.zero_stage=0")
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert result["compare"] == ["engine.batch_size=32", "engine.zero_stage=0"]
    assert result["compare_peak_mb"] > result["peak_mb"]  # eight times as many clips
    assert result["peer_ms"] is None


def test_stage_3_cannot_be_compared(config):
    finished = bench(config, "--compare", "engine.zero_stage=3")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: --compare engine.zero_stage=3: ")


def test_an_exception_in_the_peer_is_an_error(config, peer):
    finished = bench(
        config, "--peer", peer, "--peer-config", peer / "vjepa2" / "config.yaml", "--peer-set", "data.crop_size=48"
    )
    assert finished.returncode == 1
    assert "it diverged" in finished.stderr
    assert "error: " in finished.stderr


def test_a_folder_without_the_peer_is_an_input_error(config, peer, tmp_path):
    finished = bench(config, "--peer", tmp_path / "nowhere", "--peer-config", peer / "vjepa2" / "config.yaml")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: "), finished.stderr
    assert "app/theirs/train.py" in finished.stderr


@pytest.mark.parametrize("text", ["just words", "data: {crop_size: 8}", "a: ["])
def test_an_invalid_peer_configuration_is_an_input_error(config, peer, tmp_path, text):
    path = tmp_path / "theirs.yaml"
    path.write_text(text)
    finished = bench(config, "--peer", peer, "--peer-config", path)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {path}: "), finished.stderr
    assert finished.stderr.count("\n") == 1


def test_a_setting_without_a_value_is_an_input_error(config, peer):
    yaml_file = peer / "vjepa2" / "config.yaml"
    finished = bench(config, "--peer", peer, "--peer-config", yaml_file, "--peer-set", "data.crop_size")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: --peer-set data.crop_size: ")
