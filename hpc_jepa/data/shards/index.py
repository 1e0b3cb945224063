"""The index of a tar in the format of DALI's wds2idx: offset and size of each member of each sample.

``v1.2 N`` and one line per sample: ``extension offset size name`` for each of its members.
"""

import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Self

from hpc_jepa.data.storage import read_file
from hpc_jepa.errors import DataError
from hpc_jepa.io.escape import shell_command

VERSION = "v1.2"
BLOCK = tarfile.BLOCKSIZE
MAX_TEXT_HEADER = 1 << 20
"""Longest text of a header with a long name or pax records, in bytes."""
TEXT_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class Member(NamedTuple):
    """One file of a sample, ``size`` bytes from ``offset`` on; its name is ``<key>.<extension>``."""

    extension: str
    offset: int
    size: int
    name: str

    @property
    def key(self) -> str:
        """Name of the sample: the file name up to the first dot."""
        return split_member_name(self.name)[0]


IndexedSample = tuple[Member, ...]


def index_path(tar: Path) -> Path:
    """Path of the index of a tar."""
    return tar.with_suffix(".idx")


def index_command(folder: Path) -> str:
    """The advice to write the indexes of a folder again."""
    return f"run: {shell_command('hpc-jepa', 'shards', 'index', folder)}"


def format_index(samples: Iterable[IndexedSample]) -> str:
    """The text of an index file."""
    lines = [" ".join(f"{m.extension} {m.offset} {m.size} {m.name}" for m in sample) for sample in samples]
    return "\n".join([f"{VERSION} {len(lines)}", *lines, ""])


def read_index(path: Path) -> list[IndexedSample]:
    """Samples of an index file. Raises DataError with file and line if it is damaged."""
    lines = _read_text(path).splitlines()
    header = lines[0].split() if lines else []
    if len(header) != 2 or header[0] != VERSION or header[1] != str(len(lines) - 1):
        raise DataError(f"{path}:1: damaged index, expected '{VERSION} {max(len(lines) - 1, 0)}'; {_remedy(path)}")
    return [_parse(path, number, line) for number, line in enumerate(lines[1:], start=2)]


def scan_tar(path: Path) -> list[IndexedSample]:
    """Samples of a tar, from its headers. Raises DataError if the tar is damaged or truncated."""
    members = list(_tar_members(path))
    if not members:
        raise DataError(f"{path}: contains no samples; build the shards again")
    return [tuple(group) for _, group in groupby(members, key=lambda member: member.key)]


def names_with_spaces(samples: Iterable[IndexedSample]) -> list[str]:
    """Names of members with white space. DALI splits the index there: it cannot read the index, or reads it wrongly."""
    return [member.name for sample in samples for member in sample if re.search(r"[ \t\n\v\f\r]", member.name)]


def split_member_name(name: str) -> tuple[str, str]:
    """Key and extension of a tar member; folders, dots included, belong to the key."""
    folders, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folders}{slash}{stem}", extension


class _BoundedHeader(tarfile.TarInfo):
    """Header of a tar member. ``tarfile`` reads the whole text of long names and pax records: its size is limited."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in TEXT_HEADERS and not 0 <= header.size <= MAX_TEXT_HEADER:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


def _tar_members(path: Path) -> Iterator[Member]:
    """Members that belong to samples; like other readers, skip hidden files and those without extension."""
    size = path.stat().st_size
    try:
        with tarfile.open(
            path, "r:", tarinfo=_BoundedHeader
        ) as tar:  # offsets in a compressed tar would be those of its content
            for info in tar:
                key, extension = split_member_name(info.name)
                if not info.isreg() or not key or key.endswith("/") or not extension:
                    continue
                if not 0 <= info.size <= size - info.offset_data:
                    raise DataError(f"{path}: ends early, inside {info.name}; copy or build it again")
                yield Member(extension, info.offset_data, info.size, info.name)
    except (tarfile.TarError, ValueError, OverflowError) as error:  # sizes in a header can be any number
        with path.open("rb") as file:
            if file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
                raise DataError(f"{path}: compressed; an index needs an uncompressed tar, decompress it") from error
        raise DataError(f"{path}: damaged tar ({error}); copy or build it again") from error


def _read_text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except FileNotFoundError:
        raise DataError(f"{path}: missing index; {_remedy(path)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: damaged index, not UTF-8; {_remedy(path)}") from error


def _parse(path: Path, number: int, line: str) -> IndexedSample:
    words = line.split() or ["empty line"]
    try:
        parts = zip(words[::4], words[1::4], words[2::4], words[3::4], strict=True)
        return tuple(Member(extension, int(offset), int(size), name) for extension, offset, size, name in parts)
    except ValueError as error:
        raise DataError(f"{path}:{number}: damaged index line; {_remedy(path)}") from error


def _remedy(path: Path) -> str:
    return index_command(path.parent)
