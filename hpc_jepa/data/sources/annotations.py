"""Annotation files: finding and parsing them, with errors that name the file, the line and the expected format."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hpc_jepa.data.sources.file_tree import SYSTEM_FOLDERS, spelling
from hpc_jepa.errors import InputError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of splits in data sets, and the names of the shard folders."""

MAX_SECONDS = 1e9
"""Larger and non-finite times are rejected as mistakes."""


class ClassNumbers:
    """Numbers of classes by name. Another spelling (case, spaces, punctuation) of exactly one class is accepted."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._exact = {name: number for number, name in enumerate(classes)}
        self._spelt: dict[str, list[int]] = {}
        for number, name in enumerate(classes):
            self._spelt.setdefault(spelling(name), []).append(number)

    def get(self, name: str) -> int | None:
        """The number of a class, or None if the name is unknown or ambiguous."""
        spelt = self._spelt.get(spelling(name), [])
        return self._exact.get(name, spelt[0] if len(spelt) == 1 else None)


def find_annotation(folder: Path, *patterns: str) -> Path:
    """The first file that matches, by order of ``patterns``. Raises InputError like ``find_annotations``."""
    return find_annotations(folder, *patterns)[0]


def find_annotations(folder: Path, *patterns: str) -> list[Path]:
    """Files that match a pattern, in ``folder`` or one level below; ``folder`` may itself be the file.

    Raises InputError with the expected and the existing names if there are none.
    """
    try:
        files = dict.fromkeys(path for pattern in patterns for path in _matches(folder, pattern))
        found = "" if files else _contents(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check --annotations") from error
    if not files:
        raise InputError(f"{folder}: expected {' or '.join(patterns)}, found {found}; check --annotations")
    return list(files)


def read_lines(path: Path) -> list[list[str]]:
    """The words of every non-empty line."""
    return [words for line in read_text(path).splitlines() if (words := line.split())]


def read_json_records(path: Path, *keys: str) -> list[dict[str, Any]]:
    """A list of objects that all have ``keys``. Raises InputError with the number of the first invalid one."""
    records = read_json(path)
    if not isinstance(records, list):
        raise InputError(f"{path}: expected a list of objects, found {type(records).__name__}")
    for number, record in enumerate(records):
        missing = [key for key in keys if not isinstance(record, dict) or key not in record]
        if missing:
            raise InputError(f"{path}: record {number} has no '{missing[0]}'; expected {', '.join(keys)}")
    return records


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises InputError with the line of a syntax error."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: invalid JSON ({error.msg})") from error


def read_csv(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """Rows of a CSV file, as ``read_numbered_csv`` reads them."""
    return (row for _, row in read_numbered_csv(path, *columns))


def read_numbered_csv(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of the line, and the row by column name, without spaces around names and in lower case.

    Columns are separated by the first of comma, semicolon and tab that gives all ``columns``. Raises InputError if one
    of ``columns`` is missing or a row is malformed.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    separators = [mark for mark in ",;\t" if set(columns) <= set(_column_names(header.split(mark)))]
    reader = csv.DictReader(io.StringIO(text), delimiter=(separators or [","])[0], skipinitialspace=True)
    reader.fieldnames = _column_names(reader.fieldnames or [])
    try:
        yield from _rows(path, reader, columns)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.reader.line_num}: malformed CSV ({error})") from error


def parse_number(path: Path, line: int, column: str, text: str) -> float:
    """A number in a cell of a table. Raises InputError with file, line and column if it is not a finite one."""
    try:
        number = math.nan if "_" in text else float(text)  # Python reads 1_0 as 10
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        shown = f"'{text[:20]}' is not a finite number" if text else "is empty, a number is needed in every row"
        raise InputError(f"{path}:{line}: column '{column}' {shown}")
    return number


def parse_seconds(path: Path, row: dict[str, str], column: str) -> float:
    """A time in a CSV row. Raises InputError if it is not a finite number."""
    try:
        time = float(row[column])
    except ValueError:
        time = float("nan")
    if not abs(time) <= MAX_SECONDS:
        text = ", ".join(row.values())
        raise InputError(f"{path}: {column} '{row[column][:20]}' is not a number of seconds, in the row '{text[:120]}'")
    return time


def standard_split_name(path: Path, name: str) -> str:
    """The standard name of a split: train, validation or test. Raises InputError if the name is unknown."""
    if name.strip().lower() not in SPLITS:
        raise InputError(f"{path}: unknown split '{name}'; expected one of {', '.join(SPLITS)}")
    return SPLITS[name.strip().lower()]


def _column_names(names: Iterable[str]) -> list[str]:
    return [name.strip().strip('"').strip().lower() for name in names]


def _rows(path: Path, reader: "csv.DictReader[str]", columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    names = reader.fieldnames or []
    if missing := [column for column in columns if column not in names]:
        raise InputError(f"{path}:1: no column '{missing[0]}'; expected {', '.join(columns)}, found {', '.join(names)}")
    for row in reader:
        if None in row.values() or None in row:
            raise InputError(f"{path}:{reader.line_num}: expected {len(names)} columns")
        stripped = {name: value.strip() for name, value in row.items()}
        if [value.lower() for value in stripped.values()] == names:
            raise InputError(f"{path}:{reader.line_num}: the header is repeated; remove this line")
        yield reader.line_num, stripped


def files_below(folder: Path, pattern: str) -> Iterator[tuple[bool, Path]]:
    """Files that match, in ``folder`` (True) and one level below (False), without those that macOS adds to archives."""
    for direct, parts in ((True, pattern), (False, f"*/{pattern}")):
        for path in sorted(folder.glob(parts)):
            if not path.name.startswith(".") and path.parent.name not in SYSTEM_FOLDERS:
                yield direct, path


def _matches(folder: Path, pattern: str) -> list[Path]:
    if folder.is_file():
        return [folder]
    found = list(files_below(folder, pattern))
    return [path for direct, path in found if direct] or [path for _, path in found]


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more if names else "nothing"


def read_text(path: Path) -> str:
    """The content of a UTF-8 file. Raises InputError if it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --annotations") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file; check --annotations") from error
