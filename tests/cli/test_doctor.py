"""``hpc-jepa doctor`` through the command line."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.cli.machine import software, video

ABSENT = ("sacct", "nvidia-smi")


def call(*arguments):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_every_part_of_the_machine_is_checked(tmp_path):
    result = call("--json", "--folder", tmp_path)
    assert result.exit_code == 0
    checks = {entry["check"]: entry for entry in json.loads(result.stdout)}
    for check in ("Python", "packages", "H.264", "HEVC", "VP9"):
        assert checks[check]["status"] == "ok", checks[check]
    assert f"torch {torch.__version__}" in checks["packages"]["detail"]
    assert str(tmp_path) in checks["file system"]["detail"]
    assert all(entry["advice"] for entry in checks.values() if entry["status"] != "ok")
    assert any(check.startswith("DALI") and "on the CPU" in check for check in checks)
    assert list(tmp_path.iterdir()) == []


def test_missing_parts_are_named_and_do_not_fail_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None if name in ABSENT else f"/usr/bin/{name}")
    monkeypatch.setattr(software, "requires", lambda name: ["no-such-package>=1", "numpy>=999", 'hidden; extra == "x"'])
    monkeypatch.setattr(video, "CODECS", (("H.265+", "no_such_encoder", "mp4"),))
    result = call("--json", "--folder", tmp_path)
    assert result.exit_code == 0
    checks = {entry["check"]: entry for entry in json.loads(result.stdout)}
    assert {checks[check]["status"] for check in ("packages", "H.265+", "Slurm")} == {"missing"}
    assert checks["packages"]["detail"].startswith("no no-such-package; numpy ")
    assert "sacct" in checks["Slurm"]["detail"]
    assert "no_such_encoder" in checks["H.265+"]["detail"]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(columns, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = call("--folder", tmp_path)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= columns


def test_a_missing_folder_is_an_input_error(tmp_path):
    result = call("--folder", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
