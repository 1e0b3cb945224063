"""The videos and images below a folder, found by listing each folder once.

On a parallel file system one ``stat`` per file would take longer than listing all folders.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from hpc_jepa.errors import InputError

VIDEO_TYPES = (".avi", ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv")
IMAGE_TYPES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff")
UNFINISHED = (".part", ".crdownload", ".aria2", ".filepart", ".download", ".tmp")
OTHER_MEDIA = (
    *(".gif", ".heic", ".heif", ".avif", ".jp2", ".ppm", ".npy", ".npz", ".h5", ".pkl"),
    *(".m2ts", ".mts", ".m2v", ".vob", ".f4v", ".asf", ".divx", ".rm", ".rmvb", ".y4m", ".yuv"),
    *UNFINISHED,
    *(".zip", ".tar", ".tgz", ".gz", ".rar", ".7z"),
)
"""Files that may hold samples, but of types that are not read, unfinished downloads, and archives."""
SYSTEM_FOLDERS = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "#snapshot", "lost+found", "$RECYCLE.BIN", "System Volume Information")
)
"""Folders of operating systems and storage servers: copies of metadata, thumbnails, and deleted files."""
SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini"))
REPLACEMENTS = "replacement_for_corrupted"
"""Folders of Kinetics with this prefix hold sound copies of files that are corrupted elsewhere in the tree."""
MAX_KEY_LENGTH = 90
"""Characters; a USTAR name has at most 100, the extension included."""


class FileTree:
    """Videos and images below ``root``. Raises InputError if a folder is missing or cannot be listed.

    names: the files, sorted. other: files of other types, sorted. empty_folders: folders without any file of a known
    type at any depth. replaced: empty files that ``find`` passed over, with the file that it took instead.
    broken_links: links to nothing that may be folders. Hidden files and those of operating systems are left out.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: list[str] = []
        self.other: list[str] = []
        folders: set[str] = set()
        for folder, files in _folders_below(root):
            folders.add(folder)
            for name in files:
                path = name if folder == "." else f"{folder}/{name}"
                if name.lower().endswith(VIDEO_TYPES + IMAGE_TYPES):
                    self.names.append(_check_utf8(root, path))
                else:
                    self.other.append(os.fsencode(path).decode(errors="backslashreplace"))
        self.names.sort()
        self.other.sort()
        self.broken_links = [name for name in self.other if not PurePosixPath(name).suffix and _is_broken(root / name)]
        used = {str(parent) for name in self.names for parent in PurePosixPath(name).parents}
        self.empty_folders = sorted(folders - used)
        self.replaced: dict[str, str] = {}

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _group(self.names, lambda name: PurePosixPath(name).stem)

    @cached_property
    def _by_spelling(self) -> dict[str, list[str]]:
        return _group(self.names, lambda name: spelling(PurePosixPath(name).stem))

    @cached_property
    def _by_first_part(self) -> dict[str, list[str]]:
        return _group(self.names, lambda name: spelling(PurePosixPath(name).name.partition(".")[0]))

    @cached_property
    def _by_case(self) -> dict[str, list[str]]:
        return _group(self.names, _fold)

    @cached_property
    def _other_by_key(self) -> dict[str, list[str]]:
        return _group(self.other, lambda name: safe_key(PurePosixPath(name).name.partition(".")[0]))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def find(self, stem: str, near: str = "") -> str | None:
        """A file by its stem, in any folder.

        Of several, prefer files that are not empty, then videos, then replacements for corrupted files, then those in a
        folder named ``near`` in any spelling.
        """
        forms = (stem, unicodedata.normalize("NFC", stem), unicodedata.normalize("NFD", stem))
        return self._best(next((found for form in forms if (found := self._by_stem.get(form))), []), near)

    def find_spelling(self, stem: str, near: str = "") -> str | None:
        """``find``, or else a file whose stem differs only in case, spaces or punctuation.

        Not for names with video ids, where these differences matter.
        """
        return self.find(stem, near) or self._best(self._by_spelling.get(spelling(stem), []), near)

    def resolve(self, path: str) -> str | None:
        """The file at ``path``: relative to the root or absolute, with slashes or backslashes, in any Unicode form.

        Upper and lower case may differ if that is unambiguous.
        """
        names = [path, path.replace("\\", "/")]
        for root in (self.root.absolute(), self.root.resolve()):
            names += [str(Path(name).relative_to(root)) for name in names[:2] if Path(name).is_relative_to(root)]
        for name in map(os.path.normpath, names):
            if name in self._known:
                return name
            if len(found := self._by_case.get(_fold(name), [])) == 1:
                return found[0]
        return None

    def other_type(self, stem: str) -> str | None:
        """A file of this stem, of a type that is not read."""
        return next(iter(self._other_by_key.get(safe_key(stem), [])), None)

    def similar(self, stem: str) -> str | None:
        """A file whose name differs from ``stem`` only in case, spaces, punctuation, or what follows the first dot."""
        spelt = spelling(stem)
        return next(iter(self._by_spelling.get(spelt) or self._by_first_part.get(spelt, [])), None)

    def _best(self, names: list[str], near: str) -> str | None:
        if len(names) < 2:
            return next(iter(names), None)
        place = spelling(near)

        def rank(name: str) -> tuple[bool, ...]:
            parts = PurePosixPath(name).parts[:-1]
            return (
                not name.lower().endswith(VIDEO_TYPES),
                not any(part.startswith(REPLACEMENTS) for part in parts),
                not near or place not in map(spelling, parts),
            )

        ranked = sorted(names, key=rank)
        empty = [name for name in ranked if not _size(self.root / name)]
        best = next((name for name in ranked if name not in empty), ranked[0])
        self.replaced |= {name: best for name in empty if name != best}
        return best

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


def media_stem(name: str) -> str:
    """A name without the extension of a video or image."""
    return str(PurePosixPath(name).with_suffix("")) if name.lower().endswith(VIDEO_TYPES + IMAGE_TYPES) else name


def spelling(name: str) -> str:
    """What remains of a name in every spelling: no case, spaces, quotes, dashes, underscores or brackets."""
    return re.sub(r"[\s_\-'’\".,()\[\]]+", "", unicodedata.normalize("NFKC", name)).casefold()


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _group(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _size(path: Path) -> int:
    """Size in bytes; 0 for a link to nothing."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _folders_below(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder, relative to the root, with its files; hidden ones and those of systems are left out."""
    for folder, folders, files in os.walk(root, onerror=_raise_listing_error, followlinks=True):
        folders[:] = sorted(name for name in folders if _is_kept(folder, name))
        shown = [name for name in files if not name.startswith(".") and name.lower() not in SYSTEM_FILES]
        yield os.path.relpath(folder, root), shown


def _is_kept(folder: str, name: str) -> bool:
    """Whether a folder may hold samples: not hidden, not of the operating system, not one of its own parents."""
    return not name.startswith(".") and name not in SYSTEM_FOLDERS and not _is_link_loop(folder, name)


def _is_broken(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


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
