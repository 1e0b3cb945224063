"""The videos and images below a folder, found by listing each folder once.

On a parallel file system one ``stat`` per file would take longer than listing all folders.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from hpc_jepa.errors import InputError

VIDEO_TYPES = (".avi", ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv")
IMAGE_TYPES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_KEY_LENGTH = 90
"""Characters; a USTAR name has at most 100, the extension included."""


class FileTree:
    """Videos and images below ``root``. Raises InputError if a folder is missing or cannot be listed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = sorted(_files_below(root))

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for name in self.names:
            stems.setdefault(PurePosixPath(name).stem, []).append(name)
        return stems

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def find(self, stem: str, near: str = "") -> str | None:
        """A file by its stem, in any folder; if there are several, preferably one in a folder named ``near``."""
        names = self._by_stem.get(stem, [])
        return next((name for name in names if near and near in PurePosixPath(name).parts), next(iter(names), None))

    def stems(self) -> list[str]:
        """File names without folder and suffix."""
        return list(self._by_stem)

    @property
    def summary(self) -> str:
        """Counts by suffix and an example, for error messages."""
        if not self.names:
            return "no videos or images"
        kinds = Counter(PurePosixPath(name).suffix.lower() for name in self.names)
        counts = ", ".join(f"{count} {suffix}" for suffix, count in kinds.most_common(3))
        return f"{counts}, for example {self.names[0]}"


def safe_key(name: str) -> str:
    """A valid sample key: readers of tars end the key at the first dot."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:MAX_KEY_LENGTH]


def _files_below(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root, onerror=_raise_listing_error, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _is_link_loop(folder, name))
        below = os.path.relpath(folder, root)
        for name in files:
            if not name.startswith(".") and name.lower().endswith(VIDEO_TYPES + IMAGE_TYPES):
                yield _check_utf8(root, name if below == "." else f"{below}/{name}")


def _is_link_loop(folder: str, name: str) -> bool:
    """Whether a link points to one of its own parent folders."""
    path = Path(folder, name)
    return path.is_symlink() and any(parent.resolve().is_relative_to(path.resolve()) for parent in path.parents)


def _check_utf8(root: Path, name: str) -> str:
    """The same name, which must fit into JSON. Raises InputError if it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise InputError(f"{root}: the name of '{shown}' is not UTF-8; rename it") from error
    return name


def _raise_listing_error(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror}); check --videos") from error
