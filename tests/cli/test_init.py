"""``hpc-jepa init`` copies the shipped files and keeps those that exist."""

import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config.cluster import find_profile


def test_shipped_files_are_copied_and_edited_ones_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init"]).exit_code == 0
    profile = tmp_path / "slurm" / "profiles" / "small.yaml"
    profile.write_text(yaml.safe_dump(yaml.safe_load(profile.read_text()) | {"about": "mine"}))
    (tmp_path / "configs" / "model" / "tiny.yaml").unlink()
    assert CliRunner().invoke(app, ["init"]).exit_code == 0
    assert find_profile("small").cluster.about == "mine"
    assert (tmp_path / "configs" / "model" / "tiny.yaml").is_file()
    assert (tmp_path / "slurm" / "after_srun.sh").stat().st_mode & 0o100
