"""Which state of the source code is running."""

import subprocess
from functools import cache
from pathlib import Path

PACKAGE_DIR = Path(__file__).parents[1]


@cache  # what runs is what was imported, whatever becomes of the files
def code_revision() -> str:
    """The commit of the checkout this package lies in, with ``+changes`` where tracked files differ from it; ``none``
    where the package was installed from elsewhere or git is not there.
    """
    try:
        head = _git("rev-parse", "--show-toplevel", "HEAD").split()
        if PACKAGE_DIR.parent != Path(head[0]):
            return "none"  # installed into the checkout of something else
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", str(PACKAGE_DIR))
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "none"
    return f"{head[1][:12]}{'+changes' if changes else ''}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=PACKAGE_DIR, capture_output=True, text=True, check=True).stdout
