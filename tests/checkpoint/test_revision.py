import shutil
import subprocess

import pytest

from hpc_jepa.checkpoint import revision

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture(autouse=True)
def forgotten():
    """What was found out before holds for a process, not for these tests."""
    revision.commit.cache_clear()
    yield
    revision.commit.cache_clear()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A package in a repository of its own, as if it were this one."""
    package = tmp_path / "hpc_jepa"
    package.mkdir()
    (package / "revision.py").write_text("# first\n")
    for command in (("init", "-q"), ("add", "."), ("-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(revision, "PACKAGE", package)
    return tmp_path


def test_it_is_the_commit_that_is_checked_out_and_changes_are_said(checkout):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout
    assert revision.commit() == head[:12]
    (checkout / "hpc_jepa/revision.py").write_text("# second\n")
    assert revision.commit() == head[:12], "what runs was read before"
    revision.commit.cache_clear()
    assert revision.commit() == head[:12] + "+changes"


def test_the_commit_of_a_project_that_it_is_only_installed_in_is_not_its_own(checkout, monkeypatch):
    inside = checkout / ".venv/lib/hpc_jepa"
    inside.mkdir(parents=True)
    monkeypatch.setattr(revision, "PACKAGE", inside)
    assert revision.commit() == "none"


def test_outside_of_any_repository_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(revision, "PACKAGE", tmp_path)
    assert revision.commit() == "none"
