"""``hpc-jepa study`` on this machine, with real runs of a few steps."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app


@pytest.fixture
def write_study(tiny_regime, tiny_benchmark, tmp_path, monkeypatch):
    """``write_study(*variants, steps)`` writes a study of tiny runs into the working directory; its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def write(*variants, steps=2):
        study = {
            "study": "demo",
            "regimes": ["regime.yaml"],
            "variants": list(variants),
            "seeds": [0],
            "evaluations": [{"benchmark": "benchmark.yaml", "weights": ["target", "random_init"]}],
        }
        for name, content in (("regime", tiny_regime(steps)), ("benchmark", tiny_benchmark), ("study", study)):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "study.yaml"

    return write


def call(*arguments):
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name not in ("study.yaml", "log")}


def test_a_study_writes_its_files_once(write_study, tmp_path):
    study = write_study("baseline", "ld")
    plan = call("plan", study)
    assert "2 runs" in plan.stdout
    assert not (tmp_path / "runs").exists()
    assert [cell["state"] for cell in json.loads(call("status", study, "--json").stdout)] == ["not started"] * 2

    assert call("submit", study).exit_code == 0
    for variant in ("baseline", "ld"):
        run = tmp_path / "runs/demo/tiny" / variant / "seed-0"
        assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
            "config.yaml", "state.json", "metrics.jsonl", "events", "log", "checkpoints", "eval",
        }  # fmt: skip
        assert {path.name for path in (run / "log").iterdir()} == {"train.log", "evaluate.log", "starts.jsonl"}
    assert (tmp_path / "runs/demo/study.yaml").is_file()
    cells = json.loads(call("status", study, "--json").stdout)
    assert [(cell["state"], cell["step"]) for cell in cells] == [("done", 2)] * 2
    assert "motion8.standard" in call("status", study).stdout

    before = times(tmp_path / "runs/demo/tiny")
    assert call("submit", study).exit_code == 0
    changed = {path.name for path, when in times(tmp_path / "runs/demo/tiny").items() if before.get(path) != when}
    assert changed <= {"evaluate.log"}


def test_a_failed_cell_is_named_with_its_log_and_does_not_stop_the_others(write_study, tmp_path):
    broken = {"variant": "broken", "data": {"sources": {"motion8": {"shards": "nowhere"}}}}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    result = call("submit", write_study("broken.yaml", "baseline"))
    assert result.exit_code == 1
    for part in ("1 of 2", "nowhere", "runs/demo/tiny/broken/seed-0/log/train.log"):
        assert part in result.stderr
    assert (tmp_path / "runs/demo/tiny/baseline/seed-0/eval/motion8.standard.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_study_saves_running_cells_and_starts_no_others(number, write_study, tmp_path):
    study = write_study("baseline", "ld", steps=100_000)
    command = [sys.executable, "-m", "hpc_jepa", "study", "submit", str(study), "--jobs", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    log = tmp_path / "runs/demo/tiny/baseline/seed-0/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    first, second = json.loads(call("status", study, "--json").stdout)
    assert first["state"] == "interrupted"
    assert first["step"] > 0
    assert second["state"] == "not started"
