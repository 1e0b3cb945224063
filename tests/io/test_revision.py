import shutil
import subprocess

import pytest

from hpc_jepa.io import revision

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture(autouse=True)
def no_cache():
    """Revision and hash are cached once per process."""
    for cached in (revision.code_revision, revision.source_hash):
        cached.cache_clear()
    yield
    for cached in (revision.code_revision, revision.source_hash):
        cached.cache_clear()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A package in its own repository, in the place of this one."""
    package = tmp_path / "hpc_jepa"
    package.mkdir()
    (package / "revision.py").write_text("# first\n")
    for command in (("init", "-q"), ("add", "."), ("-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(revision, "PACKAGE_DIR", package)
    return tmp_path


def test_revision_is_the_commit_with_a_mark_for_changes(checkout):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout
    assert revision.code_revision() == head[:12]
    (checkout / "hpc_jepa/revision.py").write_text("# second\n")
    assert revision.code_revision() == head[:12], "cached: the imported code has not changed"
    revision.code_revision.cache_clear()
    assert revision.code_revision() == head[:12] + "+changes"


def test_commit_of_a_project_around_an_installed_package_is_not_used(checkout, monkeypatch):
    inside = checkout / ".venv/lib/hpc_jepa"
    inside.mkdir(parents=True)
    monkeypatch.setattr(revision, "PACKAGE_DIR", inside)
    assert revision.code_revision() == "none"


def test_no_revision_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(revision, "PACKAGE_DIR", tmp_path)
    assert revision.code_revision() == "none"


def test_every_edit_of_the_named_source_changes_its_hash_and_no_other(checkout):
    package = checkout / "hpc_jepa"
    for name in ("data/clip.py", "data/sources/one.py", "io/atomic.py", "objectives/fwm.py", "config.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x = 1\n")

    def hashed():
        revision.source_hash.cache_clear()
        return revision.source_hash("data", "config.py")

    seen = {hashed()}
    (package / "objectives/fwm.py").write_text("x = 2\n")
    (package / "io/atomic.py").write_text("x = 2\n")
    assert hashed() in seen
    for name in ("data/clip.py", "data/sources/one.py", "config.py"):
        (package / name).write_text("x = 2\n")
        assert hashed() not in seen
        seen.add(hashed())
