"""Git commit of the running code."""

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


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=PACKAGE_DIR, capture_output=True, text=True, check=True).stdout
