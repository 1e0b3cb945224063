"""``hpc-jepa doctor`` as a person types it."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.cli.machine import software, video


def call(*arguments):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_every_part_of_the_machine_is_tried(tmp_path):
    result = call("--json", "--folder", tmp_path)
    assert result.exit_code == 0
    found = {finding["check"]: finding for finding in json.loads(result.stdout)}
    for check in ("Python", "packages", "H.264", "HEVC", "VP9"):
        assert found[check]["verdict"] == "ok", found[check]
    assert f"torch {torch.__version__}" in found["packages"]["found"]
    assert str(tmp_path) in found["file system"]["found"]
    assert all(finding["advice"] for finding in found.values() if finding["verdict"] != "ok")
    assert any(check.startswith("DALI") and "on the CPU" in check for check in found)
    assert list(tmp_path.iterdir()) == []


def test_what_is_absent_is_named_and_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda command: None if command == "sacct" else f"/usr/bin/{command}")
    monkeypatch.setattr(software, "requires", lambda name: ["no-such-package>=1", "numpy>=999", 'hidden; extra == "x"'])
    monkeypatch.setattr(video, "CODECS", (("H.265+", "no_such_encoder", "mp4"),))
    monkeypatch.setattr("hpc_jepa.cli.machine.hardware.gpus", lambda: [])
    result = call("--json", "--folder", tmp_path)
    assert result.exit_code == 0
    found = {finding["check"]: finding for finding in json.loads(result.stdout)}
    assert {found[check]["verdict"] for check in ("packages", "H.265+", "Slurm")} == {"missing"}
    assert found["packages"]["found"].startswith("no no-such-package; numpy ")
    assert "sacct" in found["Slurm"]["found"]
    assert "no_such_encoder" in found["H.265+"]["found"]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(columns, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = call("--folder", tmp_path)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= columns


def test_a_folder_that_is_not_there_is_bad_input(tmp_path):
    result = call("--folder", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
