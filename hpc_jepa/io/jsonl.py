"""Append-only JSON Lines files of one writer.

A process that is killed while it appends leaves a torn last line, without a newline. Readers skip it; the next writer
removes it, so that it is never joined with a new line.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel

from hpc_jepa.errors import DataError, HpcJepaError
from hpc_jepa.io.atomic import no_follow, write_atomically
from hpc_jepa.io.retry import read_if_exists, retry
from hpc_jepa.io.validation import Model, parse_json

Line = BaseModel | Mapping[str, Any]

TAIL_BYTES = 1 << 16
"""Bytes read from the end of a file to find its last line; no record is longer."""


class JsonlWriter:
    """Appends to a file, unbuffered: after ``write`` a reader sees whole lines.

    After a transient error the file is opened again and the line repeated. Raises HpcJepaError when the file cannot be
    written or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = retry(self._open)
        except OSError as error:
            raise self._failure(error) from error

    def __enter__(self) -> "JsonlWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, *lines: Line) -> None:
        """Append one line per record."""
        content = b"".join(map(_encode, lines))
        try:
            written = retry(partial(self._append, content))
        except OSError as error:
            raise self._failure(error) from error
        if written != len(content):
            raise HpcJepaError(f"{self._path}: cannot be written (no space left for a whole line)")

    def fsync(self) -> None:
        """Wait until all lines are on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:  # not repeated: the kernel may have dropped the data
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> FileIO:
        _remove_torn_line(self._path)
        return open(self._path, "ab", buffering=0, opener=no_follow)

    def _append(self, content: bytes) -> int:
        if self._file.closed:
            self._file = self._open()
        try:
            return self._file.write(content)
        except OSError:
            self._file.close()  # the handle may be stale, the line torn
            raise

    def _failure(self, error: OSError) -> HpcJepaError:
        return HpcJepaError(f"{self._path}: cannot be written ({error.strerror})")


def whole_lines(path: Path) -> list[bytes]:
    """Whole lines in order, without a torn last one; empty if there is no file."""
    content = read_if_exists(path) or b""
    return content[: content.rfind(b"\n") + 1].splitlines()


def read_jsonl(path: Path, model: type[Model], remedy: str) -> list[Model]:
    """All records. Raises DataError with file, line number and ``remedy`` for a line that ``model`` does not accept."""
    return [
        parse_json(model, line, f"{path}:{number}", remedy) for number, line in enumerate(whole_lines(path), start=1)
    ]


def read_sound(path: Path, model: type[Model], remedy: str) -> tuple[list[Model], list[DataError]]:
    """The records that ``model`` accepts, and an error like that of ``read_jsonl`` for each other line."""
    records, errors = [], []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            records.append(parse_json(model, line, f"{path}:{number}", remedy))
        except DataError as error:
            errors.append(error)
    return records, errors


def read_last(path: Path, model: type[Model], remedy: str) -> Model | None:
    """The last record of a file that may be growing, None if it has none. Reads the end of the file only."""
    lines = (read_if_exists(path, TAIL_BYTES) or b"").split(b"\n")[:-1]
    return parse_json(model, lines[-1], f"{path}: last line", remedy) if lines else None


def keep_records(path: Path, model: type[Model], keep: Callable[[Model], bool], remedy: str) -> None:
    """Remove records that ``keep`` rejects, and a torn last line; the file is replaced atomically if it changes."""
    records = read_jsonl(path, model, remedy)
    kept = [line for line, record in zip(whole_lines(path), records, strict=True) if keep(record)]
    content = b"".join(line + b"\n" for line in kept)
    if path.exists() and content != path.read_bytes():
        write_atomically(path, content)


def append_jsonl(path: Path, *lines: Line, fsync: bool = False) -> None:
    """Append records to a file; with ``fsync`` wait until they are on the disk."""
    with JsonlWriter(path) as writer:
        writer.write(*lines)
        if fsync:
            writer.fsync()


def write_jsonl(path: Path, lines: Iterable[Line]) -> None:
    """Write a whole file atomically."""
    write_atomically(path, b"".join(map(_encode, lines)))


def _encode(line: Line) -> bytes:
    text = line.model_dump_json() if isinstance(line, BaseModel) else json.dumps(line)
    return f"{text}\n".encode()


def _remove_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "rb+", opener=no_follow) as file:
        if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
            file.truncate(path.read_bytes().rfind(b"\n") + 1)
