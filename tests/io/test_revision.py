import shutil
import subprocess

import pytest

from hpc_jepa.io import revision

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture(autouse=True)
def forgotten():
    """What was found out before holds for a process, not for these tests."""
    revision.code_revision.cache_clear()
    yield
    revision.code_revision.cache_clear()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A package in a repository of its own, as if it were this one."""
    package = tmp_path / "hpc_jepa"
    package.mkdir()
    (package / "revision.py").write_text("# first\n")
    for command in (("init", "-q"), ("add", "."), ("-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(revision, "PACKAGE_DIR", package)
    return tmp_path


def test_it_is_the_commit_that_is_checked_out_and_changes_are_said(checkout):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout
    assert revision.code_revision() == head[:12]
    (checkout / "hpc_jepa/revision.py").write_text("# second\n")
    assert revision.code_revision() == head[:12], "what runs was read before"
    revision.code_revision.cache_clear()
    assert revision.code_revision() == head[:12] + "+changes"


def test_the_commit_of_a_project_that_it_is_only_installed_in_is_not_its_own(checkout, monkeypatch):
    inside = checkout / ".venv/lib/hpc_jepa"
    inside.mkdir(parents=True)
    monkeypatch.setattr(revision, "PACKAGE_DIR", inside)
    assert revision.code_revision() == "none"


def test_outside_of_any_repository_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(revision, "PACKAGE_DIR", tmp_path)
    assert revision.code_revision() == "none"
