"""Git commit of the running code, and hashes of its source."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

PACKAGE_DIR = Path(__file__).parents[1]


@cache  # the code that was imported, not what the files hold later
def code_revision() -> str:
    """Commit of the checkout that contains this package, with ``+changes`` if tracked files are modified.

    ``none`` for an installed package, or without git.
    """
    try:
        head = _git("rev-parse", "--show-toplevel", "HEAD").split()
        if PACKAGE_DIR.parent != Path(head[0]):
            return "none"  # installed inside the checkout of another project
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", str(PACKAGE_DIR))
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "none"
    return f"{head[1][:12]}{'+changes' if changes else ''}"


@cache
def source_hash(*parts: str) -> str:
    """Hash of the source of files and folders of this package, such as ``data``; every edit changes it."""
    digest = hashlib.sha256()
    for part in parts:
        found = [PACKAGE_DIR / part] if part.endswith(".py") else sorted((PACKAGE_DIR / part).rglob("*.py"))
        for path in found:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(PACKAGE_DIR)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=PACKAGE_DIR, capture_output=True, text=True, check=True).stdout
